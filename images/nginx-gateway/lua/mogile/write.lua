-- PUT and DELETE. A PUT is three steps: `start` (create_open, probe the offered devices, hand the body to nginx), the node storing the bytes durably, and
-- `close`, which nginx enters when the node's answer says so: only after create_close is the client told 201. A 2xx of a node that did not lead through
-- `close` must never reach a client as success: `guard_header` turns it into 502.

local address = require "mogile.address"
local answer = require "mogile.answer"
local cluster = require "mogile.cluster"
local nodes = require "mogile.nodes"
local read = require "mogile.read"
local tracker = require "mogile.tracker"

local write = {}

local MAX_DEVICES = 8
local SEPARATOR = "\n"

-- The hexadecimal digest of a Content-MD5 header; nil, false when the header is not one.
local function digest_of(header)
  local bytes = #header <= 32 and ngx.decode_base64(header)
  if not bytes or #bytes ~= 16 then return nil end
  return (bytes:gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
end

-- An answer for requests that no node should see; nil when the request is fine.
local function refuse(key)
  if key == "" then return answer.send(400, "the path must go on with a key") end
  if ngx.var.http_content_range then return answer.send(400, "a part of a file cannot be written") end
  if not ngx.var.http_content_length and not ngx.var.http_transfer_encoding then
    return answer.send(411, "Content-Length or chunked encoding is needed")
  end
  if ngx.var.http_content_md5 and not digest_of(ngx.var.http_content_md5) then
    return answer.send(400, "Content-MD5 must be the base64 form of an MD5 digest")
  end
end

local function destinations(values)
  local items, count = {}, tonumber(values.dev_count)
  local function offer(devid, url)
    local peer, uri = address.url(url or "")
    if peer and (devid or ""):find("^%d+$") then items[#items + 1] = { peer = peer, uri = uri, devid = devid, url = url } end
  end
  if not count then offer(values.devid, values.path) end
  for index = 1, math.min(count or 0, MAX_DEVICES) do offer(values["devid_" .. index], values["path_" .. index]) end
  return nodes.order(items)
end

-- Access phase: ends in an answer of ours or in the location that sends the body.
function write.start(location, key)
  if refuse(key) then return end
  local opened = tracker.call("create_open", {
    { "domain", location.domain }, { "class", location.class ~= "" and location.class or nil }, { "key", key },
    { "multi_dest", 1 }, { "size", ngx.var.http_content_length },
  })
  if not opened.ok then return answer.tracker_error(opened) end
  local fid, cluster_id = opened.values.fid or "", cluster.id()
  for _, item in ipairs(destinations(opened.values)) do
    local peer = nodes.literal(item.peer)
    local kind = peer and nodes.probe(peer, cluster_id)
    if kind then
      ngx.var.mogile_key, ngx.var.mogile_fid = key, fid
      ngx.var.mogile_peer, ngx.var.mogile_uri = peer, item.uri
      ngx.var.mogile_upstream = kind == "ours" and "mogile_write" or "mogile_hop"
      ngx.var.mogile_cluster, ngx.var.mogile_md5 = cluster_id, ngx.var.http_content_md5 or ""
      ngx.var.mogile_open = table.concat({ fid, item.devid, item.url, opened.tracker }, SEPARATOR)
      return ngx.exec("@mogile_write")
    end
  end
  return answer.unavailable("no storage node takes the file")
end

-- Was the file committed by a create_close whose answer was lost?
local function committed(location, fid)
  local info = tracker.call("file_info", { { "domain", location.domain }, { "key", ngx.var.mogile_key } })
  return info.ok and info.values.fid == fid
end

-- The location behind a node's success: the file gets its name, then the client its 201.
function write.close(location)
  local fid, devid, url, opener = ngx.var.mogile_open:match("^(%d+)\n(%d+)\n([^\n]+)\n([^\n]+)$")
  if not fid then return answer.send(502, "the tracker gave no file id") end
  local md5 = ngx.var.mogile_md5
  local closed = tracker.call("create_close", {
    { "domain", location.domain }, { "key", ngx.var.mogile_key }, { "fid", fid }, { "devid", devid }, { "path", url },
    { "size", ngx.var.http_content_length },
    { "checksum", md5 ~= "" and "MD5:" .. digest_of(md5) or nil }, { "checksumverify", md5 ~= "" and 1 or nil },
  }, opener)
  if not closed.ok and closed.code == "no_temp_file" and closed.uncertain and committed(location, fid) then closed = { ok = true } end
  if not closed.ok then return answer.tracker_error(closed) end
  return answer.send(201, "created", { ETag = read.etag(fid) })
end

-- The location for a node's refusal, or for a node that went away.
function write.failed()
  local status = (ngx.var.upstream_status or ""):match("(%d%d%d)%D*$")
  if status == "502" or status == "504" then nodes.failed(ngx.var.mogile_peer, "write") end
  ngx.log(ngx.WARN, "storage node ", ngx.var.mogile_peer, " did not take ", ngx.var.mogile_uri, ": ", status or "no answer")
  if status == "400" then return answer.send(400, "the storage node refuses the bytes: the body is short or Content-MD5 does not match") end
  if status == "507" then return answer.send(507, "the storage node is full") end
  return answer.send(502, "the storage node did not store the file")
end

-- A success that did not lead to create_close: the node is not what the probe took it for.
function write.guard_header()
  if ngx.status >= 200 and ngx.status < 300 and ngx.var.upstream_status then
    ngx.log(ngx.ERR, "storage node ", ngx.var.mogile_peer, " stored a file but did not repeat X-Mogile-After: not committed")
    ngx.status = 502
    ngx.header["Content-Length"] = nil
    ngx.ctx.guarded = true
  end
end

function write.guard_body()
  if not ngx.ctx.guarded then return end
  ngx.arg[1] = ngx.ctx.said and "" or "the storage node did not confirm the file\n"
  ngx.ctx.said = true
end

function write.remove(location, key)
  ngx.req.discard_body()
  if key == "" then return answer.send(400, "the path must go on with a key") end
  local result = tracker.call("delete", { { "domain", location.domain }, { "key", key } })
  if result.ok or (result.code == "unknown_key" and result.uncertain) then return answer.send(204, "") end
  return answer.tracker_error(result)
end

return write
