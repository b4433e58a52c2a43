-- Trackers: who they are and which of them to ask first. Addresses come from the configuration; names among them are resolved by a timer of worker 0,
-- all records kept, and the last good list stays when a name server fails. The same timer asks every tracker `noop`: one that does not answer is
-- asked last by live requests until it does, so that a hung tracker costs requests at most one timeout. Marks expire by themselves (DOWN_SECONDS)
-- in case worker 0 is gone.

local dns = require "mogile.dns"
local state = require "mogile.state"
local line = require "mogile.line"

local trackers = {}

local RESOLVE_SECONDS = 5
local PROBE_SECONDS = 1
local PROBE_TIMEOUT_MS = 1500
local DOWN_SECONDS = 6
local MAX_TRACKERS = 64

local settings, server
local cached_text, cached_list = nil, {}
local turn = 0

function trackers.configure(new_settings)
  settings = new_settings
  server = settings.resolver or dns.system_server()
end

function trackers.server() return server end

local function resolve_one(tracker)
  if tracker.literal then return { tracker.host .. ":" .. tracker.port } end
  local hosts, problem = dns.resolve(server, tracker.host)
  local name = "names:" .. tracker.host .. ":" .. tracker.port
  if hosts then
    local list = {}
    for index, host in ipairs(hosts) do list[index] = host .. ":" .. tracker.port end
    state.set(name, table.concat(list, " "))
    return list
  end
  ngx.log(ngx.WARN, "tracker name ", tracker.host, " cannot be resolved, the last list stays: ", problem)
  local list = {}
  for text in (state.get(name) or ""):gmatch("%S+") do list[#list + 1] = text end
  return list
end

-- Resolves all names and stores the whole list; returns it.
local function refresh()
  local seen, list = {}, {}
  for _, tracker in ipairs(settings.trackers) do
    for _, text in ipairs(resolve_one(tracker)) do
      if not seen[text] and #list < MAX_TRACKERS then
        seen[text] = true
        list[#list + 1] = text
      end
    end
  end
  table.sort(list)
  state.set("trackers", table.concat(list, " "))
  return list
end

-- Every known tracker address.
function trackers.list()
  local text = state.get("trackers")
  if not text or text == "" then return refresh() end
  if text ~= cached_text then
    cached_text, cached_list = text, {}
    for one in text:gmatch("%S+") do cached_list[#cached_list + 1] = one end
  end
  return cached_list
end

-- Addresses in the order to ask them: those that answer, in turn; then those that did not.
function trackers.order(preferred)
  local list, good, bad = trackers.list(), {}, {}
  turn = turn + 1
  for index = 1, #list do
    local one = list[(turn + index) % #list + 1]
    if state.get("down:" .. one) then
      bad[#bad + 1] = one
    elseif one == preferred then
      table.insert(good, 1, one)
    else
      good[#good + 1] = one
    end
  end
  for _, one in ipairs(bad) do good[#good + 1] = one end
  return good
end

function trackers.failed(one)
  state.set("down:" .. one, true, DOWN_SECONDS)
end

function trackers.answered(one)
  if state.get("down:" .. one) then state.forget("down:" .. one) end
end

local function probe(one)
  local answer = line.exchange(one, "noop \r\n", { connect = 500, send = 500, read = PROBE_TIMEOUT_MS })
  if answer then trackers.answered(one) else trackers.failed(one) end
  return answer ~= nil
end

-- True as soon as one tracker answers; for readiness.
function trackers.ready()
  for _, one in ipairs(trackers.order()) do
    if probe(one) then return true end
  end
  return false
end

-- {address, answering} for the metrics page.
function trackers.health()
  local result = {}
  for _, one in ipairs(trackers.list()) do result[#result + 1] = { one, not state.get("down:" .. one) } end
  return result
end

local function probe_all()
  local threads = {}
  for _, one in ipairs(trackers.list()) do threads[#threads + 1] = ngx.thread.spawn(probe, one) end
  for _, thread in ipairs(threads) do ngx.thread.wait(thread) end
end

-- Starts the timers; called in every worker, works in the first.
function trackers.start()
  if ngx.worker.id() ~= 0 then return end
  local function refresh_timer(premature)
    if not premature then refresh() end
  end
  local function probe_timer(premature)
    if premature then return end
    probe_all()
    if not ngx.worker.exiting() then ngx.timer.at(PROBE_SECONDS, probe_timer) end
  end
  ngx.timer.at(0, refresh_timer)
  ngx.timer.every(RESOLVE_SECONDS, refresh_timer)
  ngx.timer.at(0, probe_timer)
end

return trackers
