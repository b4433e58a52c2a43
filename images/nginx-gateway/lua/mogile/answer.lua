-- Answers the gateway gives itself: a status, one sentence, the headers that belong to it. The status is set and the text written here rather than left to
-- ngx.exit(status), because an error status that passes through a location with error_page would be taken for a node's and sent round again.

local answer = {}

local METHODS = { { "read", "GET, HEAD" }, { "write", "PUT, DELETE" } }

function answer.send(status, text, headers)
  -- whoever waits for "100 Continue" is told the end of it, not to go on
  if ngx.var.http_expect then ngx.req.clear_header("Expect") end
  ngx.status = status
  for name, value in pairs(headers or {}) do ngx.header[name] = value end
  if status ~= 204 and status ~= 304 then
    ngx.header["Content-Type"] = "text/plain; charset=utf-8"
    ngx.header["Content-Length"] = #text + 1
    ngx.print(text, "\n")
  end
  return ngx.exit(ngx.HTTP_OK)
end

function answer.unavailable(text)
  return answer.send(503, text, { ["Retry-After"] = "1" })
end

function answer.closed(location)
  local allowed = {}
  for _, method in ipairs(METHODS) do
    if location[method[1]] ~= "off" then allowed[#allowed + 1] = method[2] end
  end
  return answer.send(405, "this method is not open here", { Allow = table.concat(allowed, ", ") })
end

local MISSING = { unknown_key = true, unreg_domain = true, domain_not_found = true }
local UNAVAILABLE = { unreachable = true, no_devices = true, db = true, failure = true, draining = true }
local CLIENT = { no_key = true, checksum_mismatch = true, invalid_checksum_format = true, invalid_key = true, key_too_long = true, bad_key = true }

-- The one mapping from a tracker's error to an HTTP status.
function answer.tracker_error(result)
  if MISSING[result.code] then return answer.send(404, "not found") end
  if UNAVAILABLE[result.code] then return answer.unavailable("the store cannot do this now: " .. result.code) end
  if CLIENT[result.code] then return answer.send(400, "the tracker refuses: " .. result.code) end
  ngx.log(ngx.ERR, "tracker ", result.tracker, " refuses: ", result.code, " ", result.message)
  return answer.send(502, "the tracker refuses: " .. result.code)
end

return answer
