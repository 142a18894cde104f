-- Creates an attachment; the argument is the API key.
dofile(os.getenv("BENCH") .. "/report.lua")

function init(args)
    wrk.method = "POST"
    wrk.body = '{"filename":"photo.jpg","content_type":"image/jpeg","size_bytes":48213}'
    wrk.headers["Content-Type"] = "application/json"
    wrk.headers["Authorization"] = "Bearer " .. args[1]
end
