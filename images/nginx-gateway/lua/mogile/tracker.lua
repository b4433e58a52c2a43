-- A command to the trackers: encodes it, asks one tracker after the other until one answers, decodes the answer. An answer with an error code is an
-- answer; only silence, refusal and nonsense make the next tracker be asked. `uncertain` in a result says that an earlier tracker may have carried the
-- command out although its answer was lost: create_close and delete need to know.

local escape = require "mogile.escape"
local line = require "mogile.line"
local metrics = require "mogile.metrics"
local trackers = require "mogile.trackers"

local tracker = {}

-- milliseconds to wait for the answer; closing checks the file on its node and may wait for a second copy
local READ_MS = { get_paths = 2000, mogile_cluster = 2000, file_info = 2000, delete = 5000, create_open = 5000, create_close = 60000 }
local CONNECT_MS, SEND_MS = 500, 2000
local MAX_ASKED = 6
-- a tracker that says this of itself is no better than a silent one while others are left; no_devices may only mean that it has not yet
-- seen the devices which another one knows
local ELSEWHERE = { db = true, failure = true, draining = true, no_devices = true }

local function parse(text)
  local rest = text:match("^OK ?(.*)$")
  if rest then return { ok = true, values = escape.pairs(rest) } end
  local code, message = text:match("^ERR (%S+) ?(%S*)")
  if code then return { ok = false, code = code, message = escape.decode(message) } end
end

-- {ok, values, tracker, uncertain} or {ok=false, code, message, tracker, uncertain}; code "unreachable" when no tracker answered.
function tracker.call(command, arguments, preferred)
  local request = escape.line(command, arguments)
  local timeouts = { connect = CONNECT_MS, send = SEND_MS, read = READ_MS[command] }
  local uncertain, last = false, nil
  for index, one in ipairs(trackers.order(preferred)) do
    if index > MAX_ASKED then break end
    local text, problem, maybe = line.exchange(one, request, timeouts)
    local result = text and parse(text)
    uncertain = uncertain or maybe or false
    if result then
      trackers.answered(one)
      result.tracker, result.uncertain = one, uncertain
      if result.ok or not ELSEWHERE[result.code] then
        metrics.tracker(command, result.ok and "ok" or "error")
        return result
      end
      last, uncertain = result, uncertain or result.code ~= "no_devices"
    else
      trackers.failed(one)
      uncertain = uncertain or text ~= nil
      ngx.log(ngx.WARN, "tracker ", one, " did not answer ", command, ": ", text and "an answer that is no answer" or problem)
    end
    metrics.tracker(command, last and "error" or "unreachable")
  end
  return last or { ok = false, code = "unreachable", message = "no tracker answers", uncertain = uncertain }
end

return tracker
