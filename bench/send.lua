-- Sends a message; the arguments are the API key and the part as JSON.
dofile(os.getenv("BENCH") .. "/report.lua")

function init(args)
    wrk.method = "POST"
    wrk.body = '{"message":{"parts":[' .. args[2] .. ']}}'
    wrk.headers["Content-Type"] = "application/json"
    wrk.headers["Authorization"] = "Bearer " .. args[1]
end
