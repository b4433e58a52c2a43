-- What nginx.conf calls: one function per hook, each finding the location of the request and passing on. Configuration is loaded once per (re)load, in the
-- master, before the workers fork. The order of refusals is fixed: unknown location 404, closed method 405, token 401/403, then the key.

local address = require "mogile.address"
local answer = require "mogile.answer"
local auth = require "mogile.auth"
local balancer = require "ngx.balancer"
local cluster = require "mogile.cluster"
local config = require "mogile.config"
local escape = require "mogile.escape"
local metrics = require "mogile.metrics"
local read = require "mogile.read"
local state = require "mogile.state"
local trackers = require "mogile.trackers"
local write = require "mogile.write"

local gateway = {}

local READY_SECONDS = 1
local CLUSTER_SECONDS = 5
local FIELD = { GET = "read", HEAD = "read", PUT = "write", DELETE = "write" }
local NOWHERE = { path = "" }

local settings

function gateway.init(path)
  local problem
  settings, problem = config.load(path)
  if not settings then error(path .. ": " .. problem) end
  auth.init()
  trackers.configure(settings)
  cluster.configure(settings)
end

function gateway.init_worker()
  math.randomseed(ngx.now() * 1000 + ngx.worker.pid())
  trackers.start()
  if ngx.worker.id() ~= 0 then return end
  local function learn(premature)
    if not premature then cluster.id() end
  end
  ngx.timer.at(0, learn)
  ngx.timer.every(CLUSTER_SECONDS, learn)
end

local function current()
  return settings.locations[tonumber(ngx.var.mogile_location) or 0] or NOWHERE
end

function gateway.access()
  local location, method = current(), ngx.req.get_method()
  local field = FIELD[method]
  ngx.var.mogile_method = method -- a node's X-Accel-Redirect turns the request into a GET
  if not field or location[field] == "off" then return answer.closed(location) end
  if location[field] == "token" then
    local status = auth.check(location.token_file, ngx.var.http_authorization)
    if status == 401 then return answer.send(401, "a token is needed", { ["WWW-Authenticate"] = 'Bearer realm="mogile"' }) end
    if status == 403 then return answer.send(403, "the token is not good here") end
  end
  local key = escape.key(ngx.var.request_uri, location.path)
  if not key then return answer.send(400, "the path leads out of its location") end
  if field == "read" then return read.start(location, key) end
  if method == "PUT" then return write.start(location, key) end
  return write.remove(location, key)
end

function gateway.read_next() return read.next(current()) end

function gateway.write_close() return write.close(current()) end

gateway.write_failed = write.failed
gateway.write_guard_header = write.guard_header
gateway.write_guard_body = write.guard_body

function gateway.balance()
  local host, port = address.parse(ngx.var.mogile_peer)
  local ok, problem = balancer.set_current_peer(host, port)
  if not ok then ngx.log(ngx.ERR, "storage node ", ngx.var.mogile_peer, " cannot be asked: ", problem) end
end

-- For nodes that are not ours: the answer they do not give.
function gateway.hop_header()
  ngx.header["X-Accel-Redirect"] = nil
  if ngx.status >= 200 and ngx.status < 300 then ngx.header["X-Accel-Redirect"] = "/.mogile-gateway/close" end
end

function gateway.header_filter()
  if FIELD[ngx.var.mogile_method] == "read" and ngx.var.mogile_location then read.headers() end
end

function gateway.log()
  local method = ngx.var.mogile_method or ngx.var.request_method
  metrics.request(current().path, method, ngx.var.status, tonumber(ngx.var.request_time) or 0,
    tonumber(ngx.var.request_length) or 0, tonumber(ngx.var.bytes_sent) or 0)
end

function gateway.no_location() return answer.send(404, "nothing is served here") end

function gateway.unreachable() return answer.send(500, "this cannot be reached") end

function gateway.healthz() return answer.send(200, "ok") end

function gateway.readyz()
  local known = state.get("ready")
  if known == nil then
    known = trackers.ready()
    state.set("ready", known, READY_SECONDS)
  end
  if known then return answer.send(200, "ready") end
  return answer.unavailable("no tracker answers")
end

function gateway.metrics()
  local up = {}
  for _, one in ipairs(trackers.health()) do up[#up + 1] = { '{tracker="' .. one[1] .. '"}', one[2] and 1 or 0 } end
  local connections = {}
  for _, name in ipairs({ "active", "reading", "writing", "waiting" }) do
    connections[#connections + 1] = { '{state="' .. name .. '"}', tonumber(ngx.var["connections_" .. name]) or 0 }
  end
  ngx.header["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
  ngx.print(metrics.page({
    { "mogile_gateway_tracker_up", "1 when the tracker answered lately.", up },
    { "mogile_gateway_connections", "Client connections by state.", connections },
  }))
end

return gateway
