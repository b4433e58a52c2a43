-- One request line to one tracker and its one answer line, over a pooled connection. A pooled connection that the tracker closed meanwhile is replaced
-- once by a fresh one. A connection that timed out or broke is closed, never pooled: its answer could still arrive and be taken for another's.

local line = {}

local POOL_IDLE_MS = 60000
local POOL_SIZE = 64
local address = require "mogile.address"

local function once(one, host, port, request, timeouts)
  local socket = ngx.socket.tcp()
  socket:settimeouts(timeouts.connect, timeouts.send, timeouts.read)
  local ok, problem = socket:connect(host, port, { pool = "tracker " .. one, pool_size = POOL_SIZE })
  if not ok then return nil, problem, false, false end
  local pooled = socket:getreusedtimes() > 0
  ok, problem = socket:send(request)
  local answer
  if ok then answer, problem = socket:receive("*l") end
  if not answer then
    socket:close()
    return nil, problem, pooled and problem ~= "timeout", true
  end
  socket:setkeepalive(POOL_IDLE_MS, POOL_SIZE)
  return (answer:gsub("\r$", ""))
end

-- The answer line without its end; or nil, the reason, and whether the tracker may have carried the request out all the same.
function line.exchange(one, request, timeouts)
  local host, port = address.parse(one)
  local answer, problem, stale, sent = once(one, host, port, request, timeouts)
  local uncertain = sent
  for _ = 1, POOL_SIZE do
    if answer or not stale then break end
    answer, problem, stale, sent = once(one, host, port, request, timeouts)
    uncertain = uncertain or sent
  end
  return answer, problem, uncertain
end

return line
