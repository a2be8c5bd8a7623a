-- Arguments: the paths, if there are several of them to ask for in turn.
wrk.headers["Accept"] = "application/vnd.oci.image.manifest.v1+json"

function init(args)
  if #args > 0 then
    local wanted, n = {}, 0
    for i = 1, #args do wanted[i] = wrk.format(nil, args[i]) end
    request = function()
      n = n % #wanted + 1
      return wanted[n]
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("measured %d %d %d", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
  for _, p in ipairs({50, 75, 90, 95, 99, 99.9}) do io.write(string.format(" %d", latency:percentile(p))) end
  io.write("\n")
end
