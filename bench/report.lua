-- Prints one line for the scripts: requests per second, and failed requests.
function done(summary)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("report %.1f %d\n", summary.requests / summary.duration * 1e6, failed))
end
