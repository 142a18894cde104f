-- Sends messages into many chats in turn; the arguments are the API key, the part as JSON, and the chats.
dofile(os.getenv("BENCH") .. "/report.lua")

local paths, turn = {}, 0

function init(args)
    wrk.method = "POST"
    wrk.body = '{"message":{"parts":[' .. args[2] .. ']}}'
    wrk.headers["Content-Type"] = "application/json"
    wrk.headers["Authorization"] = "Bearer " .. args[1]
    for n = 3, #args do
        paths[n - 2] = "/v3/chats/" .. args[n] .. "/messages"
    end
    math.randomseed(os.time())
    turn = math.random(#paths)
end

function request()
    turn = turn % #paths + 1
    return wrk.format(nil, paths[turn])
end
