-- Addresses and storage URLs. Pure. `parse` splits "host:port"; `url` splits what a tracker returns as a path. Hosts are IPv4, [IPv6] or a name.
-- A storage URL is accepted only when its path has no character that could end a request line or a header: the tracker is trusted to say where
-- a file is, not to write our requests.

local address = {}

local MAX_HOST_BYTES = 253

function address.is_ipv4(host)
  local a, b, c, d = host:match("^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
  if not a then return false end
  return tonumber(a) < 256 and tonumber(b) < 256 and tonumber(c) < 256 and tonumber(d) < 256
end

function address.is_ipv6(host)
  local inner = host:match("^%[([%x:.]+)%]$")
  return inner ~= nil and inner:find(":", 1, true) ~= nil
end

function address.is_ip(host)
  return address.is_ipv4(host) or address.is_ipv6(host)
end

local function is_name(host)
  if #host > MAX_HOST_BYTES or host:find("^[%d.]+$") then return false end
  for label in (host:gsub("%.$", "") .. "."):gmatch("(.-)%.") do
    if #label > 63 or not label:find("^[%w_]") or label:find("[^%w_-]") then return false end
  end
  return true
end

-- host, port; or nil. `default_port` nil: the port must be given.
function address.parse(text, default_port)
  local host, port = text:match("^(.-):(%d+)$")
  if not host or (host:find(":", 1, true) and not address.is_ipv6(host)) then
    host, port = text, default_port
  end
  port = tonumber(port)
  if not port or port < 1 or port > 65535 or port % 1 ~= 0 then return nil end
  if not (address.is_ip(host) or is_name(host)) then return nil end
  return host, port
end

-- "host:port" and the path of http://host[:port]/path; or nil.
function address.url(text)
  local authority, path = text:match("^http://([^/]+)(/[%w/._~%%-]*)$")
  if not authority then return nil end
  local host, port = address.parse(authority, 80)
  if not host then return nil end
  return host .. ":" .. port, path
end

-- fid number as text when the path is MogileFS's /devN/b/mmm/ttt/NFID.fid; else nil.
function address.fid(path)
  local digits = path:match("^/dev%d+/%d/%d%d%d/%d%d%d/(%d+)%.fid$")
  return digits and (digits:gsub("^0+(%d)", "%1"))
end

return address
