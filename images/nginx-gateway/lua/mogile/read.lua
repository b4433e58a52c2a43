-- GET and HEAD: ask a tracker where the file is, hand the paths to nginx one after the other until a node gives an answer worth passing on.
-- nginx's `error_page` brings every failed try back to `next`, in a location of its own where Lua's tables are lost: what must survive is kept in nginx
-- variables. A fid's bytes never change, so the ETag is made from the fid (the same from every copy, node and gateway) and conditions on it are answered
-- here, without troubling a node.

local address = require "mogile.address"
local answer = require "mogile.answer"
local cluster = require "mogile.cluster"
local metrics = require "mogile.metrics"
local mime = require "mogile.mime"
local nodes = require "mogile.nodes"
local tracker = require "mogile.tracker"

local read = {}

local MAX_PATHS = 8 -- nginx allows ten internal redirects; one is spent getting to the first try
local MISSING, OTHER, ASKED_AGAIN = "m", "x", "a"

local function etag(fid)
  if fid == "" then return nil end
  return '"' .. cluster.known():sub(1, 8) .. "-" .. fid .. '"'
end
read.etag = etag

-- Items {peer, uri} in the order to try, from a get_paths answer; paths already tried (in the text `seen`) are left out.
local function items_of(values, seen)
  local items = {}
  for index = 1, math.min(tonumber(values.paths) or 0, MAX_PATHS) do
    local peer, uri = address.url(values["path" .. index] or "")
    if peer and not seen:find(peer .. uri .. " ", 1, true) then items[#items + 1] = { peer = peer, uri = uri } end
  end
  return nodes.order(items)
end

local function lookup(location, key)
  return tracker.call("get_paths", {
    { "domain", location.domain }, { "key", key }, { "noverify", 1 }, { "pathcount", MAX_PATHS },
  })
end

local function keep(items)
  local parts = {}
  for index, item in ipairs(items) do parts[index] = item.peer .. item.uri end
  ngx.var.mogile_rest = table.concat(parts, " ")
end

-- Does a list of entity tags name `tag`? `*` names everything; a weak tag counts only where `weak` allows it.
local function names(list, tag, weak)
  if list:find("^%s*%*%s*$") then return true end
  for prefix, one in list:gmatch('(W?/?)("[^"]*")') do
    if one == tag and (prefix == "" or weak) then return true end
  end
  return false
end

-- 304 or 412 when a condition on the ETag decides the request; else nil and the headers for the node are set.
local function conditions(tag)
  local if_match, if_none_match = ngx.var.http_if_match, ngx.var.http_if_none_match
  if if_match and not (tag and names(if_match, tag, false)) then return 412 end
  if if_none_match then
    if tag and names(if_none_match, tag, true) then return 304 end
  else
    ngx.var.mogile_if_modified = ngx.var.http_if_modified_since or ""
  end
  if not if_match then ngx.var.mogile_if_unmodified = ngx.var.http_if_unmodified_since or "" end
  local range, if_range = ngx.var.http_range, ngx.var.http_if_range
  if range and if_range and if_range:find('"', 1, true) then
    if if_range ~= tag then range = nil end
    if_range = nil
  end
  ngx.var.mogile_range = range or ""
  ngx.var.mogile_if_range = range and if_range or ""
end

-- Access phase of an open location: ends in an answer of ours or in the location that fetches.
function read.start(location, key)
  ngx.req.discard_body()
  if key == "" then return answer.send(404, "not found") end
  local result = lookup(location, key)
  if not result.ok then return answer.tracker_error(result) end
  local items = items_of(result.values, "")
  if #items == 0 then return answer.unavailable("no copy of this file can be reached") end
  local fid = address.fid(items[1].uri) or ""
  ngx.var.mogile_fid = fid
  local tag = etag(fid)
  local status = conditions(tag)
  if status then return answer.send(status, "the condition is not met", { ETag = tag }) end
  ngx.var.mogile_key = key
  ngx.var.mogile_cluster = cluster.known()
  keep(items)
  return ngx.exec("@mogile_read")
end

-- What became of the try before, if there was one: the letter that is kept of it.
local function judge(location)
  local status = (ngx.var.upstream_status or ""):match("(%d%d%d)%D*$")
  if not status then return "" end
  local peer = ngx.var.mogile_peer
  if status == "502" or status == "504" then nodes.failed(peer, "read") end
  metrics.failover(location.path)
  ngx.log(ngx.INFO, "storage node ", peer, " answered ", status, " for ", ngx.var.mogile_uri)
  return status == "404" and MISSING or OTHER
end

-- After copies that are all gone: they may have been moved since the tracker was asked, so ask once more.
local function ask_again(location)
  local tried = ngx.var.mogile_tried
  if tried:find(OTHER, 1, true) or tried:find(ASKED_AGAIN, 1, true) then return nil end
  ngx.var.mogile_tried = tried .. ASKED_AGAIN
  local result = lookup(location, ngx.var.mogile_key)
  if not result.ok then return result end
  local items = items_of(result.values, ngx.var.mogile_open)
  if #items > 0 then ngx.var.mogile_fid = address.fid(items[1].uri) or "" end
  keep(items)
end

-- Rewrite phase of the fetching location: picks the next copy, or ends the request when none is left.
function read.next(location)
  ngx.var.mogile_tried = ngx.var.mogile_tried .. judge(location)
  if ngx.var.mogile_rest == "" then
    local failed = ask_again(location)
    if failed then return answer.tracker_error(failed) end
  end
  while #ngx.var.mogile_tried < MAX_PATHS do
    local first, rest = ngx.var.mogile_rest:match("^(%S+) ?(.*)$")
    if not first then break end
    ngx.var.mogile_rest = rest
    ngx.var.mogile_open = ngx.var.mogile_open .. first .. " "
    local named, uri = first:match("^([^/]+)(/.*)$")
    local peer = nodes.literal(named)
    if peer then
      ngx.var.mogile_peer, ngx.var.mogile_uri = peer, uri
      return
    end
    ngx.var.mogile_tried = ngx.var.mogile_tried .. OTHER
  end
  return answer.unavailable("no copy of this file can be reached")
end

-- Header filter: what a client sees of a node's answer.
function read.headers()
  if ngx.var.mogile_peer == "" or ngx.status == 503 then return end
  if ngx.status == 200 or ngx.status == 206 or ngx.status == 304 then
    ngx.header["ETag"] = etag(ngx.var.mogile_fid)
    ngx.header["Content-Type"] = mime.of(ngx.var.mogile_key)
    ngx.header["X-Content-Type-Options"] = "nosniff"
  end
end

return read
