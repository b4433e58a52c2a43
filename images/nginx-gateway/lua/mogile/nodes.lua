-- Storage nodes: which of them failed lately (asked last for DEAD_SECONDS), and the probe before an upload. An upload cannot be repeated once bytes have
-- left, so before the first one a small request over a pooled connection must come back from the node: that sees refused, hung and foreign nodes. The
-- probe also tells nodes of ours (they repeat their cluster id and know X-Mogile-After) from others. A good probe counts for ALIVE_SECONDS, so a burst of
-- uploads costs one.

local address = require "mogile.address"
local dns = require "mogile.dns"
local metrics = require "mogile.metrics"
local state = require "mogile.state"
local trackers = require "mogile.trackers"

local nodes = {}

local DEAD_SECONDS = 5
local ALIVE_SECONDS = 0.2
local NAME_SECONDS = 5
local CONNECT_MS, SEND_MS, READ_MS = 1000, 1000, 1500
local POOL_IDLE_MS, POOL_SIZE = 3000, 16
local MAX_HEADERS = 64
local MISDIRECTED = 421

function nodes.failed(peer, phase)
  state.set("dead:" .. peer, true, DEAD_SECONDS)
  state.forget("alive:" .. peer)
  metrics.node_failure(phase)
end

function nodes.is_dead(peer)
  return state.get("dead:" .. peer) == true
end

-- The given peers, those that failed lately last; order is kept otherwise. Items are tables with a field `peer`.
function nodes.order(items)
  local good, bad = {}, {}
  for _, item in ipairs(items) do
    local list = nodes.is_dead(item.peer) and bad or good
    list[#list + 1] = item
  end
  for _, item in ipairs(bad) do good[#good + 1] = item end
  return good
end

-- The same peer with an IP address; nil when its name has none. nginx's balancer takes nothing else.
function nodes.literal(peer)
  local host, port = address.parse(peer)
  if not host then return nil end
  if address.is_ip(host) then return peer end
  local known = state.get("node name:" .. host)
  if not known then
    local list, problem = dns.resolve(trackers.server(), host)
    if not list then
      ngx.log(ngx.WARN, "storage node name ", host, " cannot be resolved: ", problem)
      return nil
    end
    known = list[1]
    state.set("node name:" .. host, known, NAME_SECONDS)
  end
  return known .. ":" .. port
end

local function read_head(socket)
  local status_line, problem = socket:receive("*l")
  if not status_line then return nil, problem end
  local version, status = status_line:match("^HTTP/1%.(%d) (%d%d%d)")
  if not status then return nil, "no HTTP answer" end
  local head = { status = tonumber(status), reusable = version == "1", ours = false }
  for _ = 1, MAX_HEADERS do
    local header
    header, problem = socket:receive("*l")
    if not header then return nil, problem end
    header = header:gsub("\r$", ""):lower()
    if header == "" then return head end
    if header:find("^x%-mogile%-cluster:%s*%x") then head.ours = true end
    if header:find("^connection:.*close") then head.reusable = false end
  end
  return nil, "too many headers"
end

local function ask(peer, cluster_id)
  local host, port = address.parse(peer)
  local socket = ngx.socket.tcp()
  socket:settimeouts(CONNECT_MS, SEND_MS, READ_MS)
  local ok, problem = socket:connect(host, port, { pool = "node " .. peer, pool_size = POOL_SIZE })
  if not ok then return nil, problem, false end
  local pooled = socket:getreusedtimes() > 0
  local cluster_header = cluster_id ~= "" and "X-Mogile-Cluster: " .. cluster_id .. "\r\n" or ""
  ok, problem = socket:send("HEAD / HTTP/1.1\r\nHost: " .. peer .. "\r\n" .. cluster_header .. "\r\n")
  local head
  if ok then head, problem = read_head(socket) end
  if not head then
    socket:close()
    return nil, problem, pooled and problem ~= "timeout"
  end
  if head.reusable then socket:setkeepalive(POOL_IDLE_MS, POOL_SIZE) else socket:close() end
  return head
end

-- "ours" or "foreign" when the node can take an upload; nil when it cannot.
function nodes.probe(peer, cluster_id)
  local known = state.get("alive:" .. peer)
  if known then return known end
  local head, problem, stale
  for _ = 1, POOL_SIZE do
    head, problem, stale = ask(peer, cluster_id)
    if head or not stale then break end
  end
  if not head or head.status == MISDIRECTED then
    ngx.log(ngx.WARN, "storage node ", peer, " takes no upload: ", problem or "it belongs to another cluster")
    nodes.failed(peer, "probe")
    return nil
  end
  state.forget("dead:" .. peer)
  local kind = head.ours and "ours" or "foreign"
  state.set("alive:" .. peer, kind, ALIVE_SECONDS)
  return kind
end

return nodes
