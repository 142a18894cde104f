-- Requests one URL; the argument is the API key.
dofile(os.getenv("BENCH") .. "/report.lua")

function init(args)
    wrk.headers["Authorization"] = "Bearer " .. args[1]
end
