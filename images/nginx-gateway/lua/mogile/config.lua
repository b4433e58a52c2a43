-- gateway.json: read, checked completely, defaults filled in. Duty: either a table the rest may trust without looking again, or one sentence that
-- names the field. Unknown fields are errors: a mistyped "tokenfile" must not silently open a location. Reads files only through `load`.

local address = require "mogile.address"
local json = require "mogile.json"

local config = {}

local MAX_FILE_BYTES = 1024 * 1024
local MAX_TRACKERS = 64
local MAX_LOCATIONS = 500
local MAX_PATH_BYTES = 512
local MAX_NAME_BYTES = 255
local ACCESS = { open = true, token = true, off = true }

local function complain(field, message)
  error({ config_error = field .. ": " .. message }, 0)
end

local function kind(value)
  if value == json.null then return "null" end
  local meta = getmetatable(value)
  if meta == json.object then return "object" end
  if meta == json.array then return "array" end
  return type(value)
end

local function take(object, field, expected, default, label)
  local value = object[field]
  if value == nil then
    if default == nil then complain(label or field, "is missing") end
    return default
  end
  if kind(value) ~= expected then complain(label or field, "must be a " .. expected .. ", not " .. kind(value)) end
  return value
end

local function only(object, allowed, label)
  local names = {}
  for name in pairs(object) do
    if not allowed[name] then names[#names + 1] = name end
  end
  table.sort(names)
  if names[1] then complain(label .. names[1], "is no field of a gateway configuration") end
end

local function whole(object, field, default, low, high, label)
  local value = take(object, field, "number", default, label)
  if value % 1 ~= 0 or value < low or value > high then
    complain(label, string.format("must be a whole number from %d to %.0f", low, high))
  end
  return value
end

local function listen(object, field, default)
  local value = take(object, field, "string", default)
  local host, port = address.parse(value)
  if not host or not address.is_ip(host) then complain(field, "must be IP:port such as 0.0.0.0:8080, not \"" .. value .. '"') end
  return { host = host, port = port, text = host .. ":" .. port }
end

local function trackers(object)
  local list = take(object, "trackers", "array")
  if #list == 0 then complain("trackers", "needs at least one address, such as 10.0.0.5:7001") end
  if #list > MAX_TRACKERS then complain("trackers", "at most " .. MAX_TRACKERS .. " addresses") end
  local result = {}
  for index, value in ipairs(list) do
    local label = "trackers[" .. index - 1 .. "]"
    if type(value) ~= "string" then complain(label, "must be a string such as 10.0.0.5:7001") end
    local host, port = address.parse(value)
    if not host then complain(label, 'must be host:port such as 10.0.0.5:7001, not "' .. value .. '"') end
    result[index] = { host = host, port = port, literal = address.is_ip(host) }
  end
  return result
end

local function resolver(object)
  local value = take(object, "resolver", "string", "")
  if value == "" then return nil end
  local host, port = address.parse(value, 53)
  if not host or not address.is_ip(host) then complain("resolver", 'must be the IP address of a name server, not "' .. value .. '"') end
  return { host = host, port = port }
end

local function cluster_id(object)
  local value = take(object, "clusterId", "string", "")
  if value ~= "" and not value:find("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$") then
    complain("clusterId", "must be a UUID or empty")
  end
  return value:lower()
end

local function access(location, field, default, label)
  local value = take(location, field, "string", default, label .. field)
  if not ACCESS[value] then complain(label .. field, 'must be open, token or off, not "' .. value .. '"') end
  return value
end

local function name(location, field, default, label)
  local value = take(location, field, "string", default, label .. field)
  if #value > MAX_NAME_BYTES then complain(label .. field, "at most " .. MAX_NAME_BYTES .. " bytes") end
  return value
end

local LOCATION_FIELDS = { path = true, domain = true, class = true, read = true, write = true, tokenFile = true }

local function location(value, label, seen)
  if kind(value) ~= "object" then complain(label:gsub("%.$", ""), "must be an object") end
  only(value, LOCATION_FIELDS, label)
  local path = take(value, "path", "string", nil, label .. "path")
  if not path:find("^/") or not path:find("/$") or #path > MAX_PATH_BYTES or path:find('[%c"\\{};?#%%]') or path:find("/%.%.?/")
    or path:find("^/%.mogile%-gateway/") then
    complain(label .. "path", 'must begin and end with / and hold no control or quoting character, dot segment or percent sign')
  end
  if seen[path] then complain(label .. "path", '"' .. path .. '" is given twice') end
  seen[path] = true
  local domain = name(value, "domain", nil, label)
  if domain == "" then complain(label .. "domain", "must not be empty") end
  local class = name(value, "class", "", label)
  local result = {
    path = path, domain = domain, class = class ~= "default" and class or "",
    read = access(value, "read", "off", label), write = access(value, "write", "off", label),
    token_file = take(value, "tokenFile", "string", "", label .. "tokenFile"),
  }
  if (result.read == "token" or result.write == "token") and result.token_file == "" then
    complain(label .. "tokenFile", "is missing: the location asks for a token")
  end
  if result.token_file ~= "" and not result.token_file:find("^/") then
    complain(label .. "tokenFile", "must be an absolute path")
  end
  return result
end

local function locations(object)
  local list, seen, result = take(object, "locations", "array"), {}, {}
  if #list == 0 then complain("locations", "needs at least one location") end
  if #list > MAX_LOCATIONS then complain("locations", "at most " .. MAX_LOCATIONS .. " locations") end
  for index, value in ipairs(list) do result[index] = location(value, "locations[" .. index - 1 .. "].", seen) end
  return result
end

local FIELDS = {
  listen = true, metricsListen = true, workers = true, trackers = true, resolver = true, clusterId = true, limits = true,
  locations = true, accessLog = true,
}

local function check(object)
  if kind(object) ~= "object" then complain("the file", "must be a JSON object") end
  only(object, FIELDS, "")
  local limits = take(object, "limits", "object", setmetatable({}, json.object))
  only(limits, { connectionsPerClient = true, maxBodyBytes = true }, "limits.")
  local access_log = object.accessLog
  if access_log == nil then access_log = false end
  if type(access_log) ~= "boolean" then complain("accessLog", "must be true or false") end
  local result = {
    listen = listen(object, "listen", "0.0.0.0:8080"),
    metrics_listen = listen(object, "metricsListen", "0.0.0.0:8081"),
    workers = whole(object, "workers", 1, 1, 64, "workers"),
    trackers = trackers(object), resolver = resolver(object), cluster_id = cluster_id(object),
    connections_per_client = whole(limits, "connectionsPerClient", 0, 0, 65535, "limits.connectionsPerClient"),
    max_body_bytes = whole(limits, "maxBodyBytes", 0, 0, 2 ^ 53, "limits.maxBodyBytes"),
    access_log = access_log,
    locations = locations(object),
  }
  if result.listen.text == result.metrics_listen.text then complain("metricsListen", "must differ from listen") end
  return result
end

-- The checked configuration, or nil and one sentence.
function config.parse(text)
  local object, problem = json.decode(text)
  if object == nil then return nil, "is not JSON: " .. problem end
  local ok, result = pcall(check, object)
  if ok then return result end
  if type(result) == "table" and result.config_error then return nil, result.config_error end
  error(result, 0)
end

function config.load(path)
  local file, problem = io.open(path, "rb")
  if not file then return nil, "cannot be read: " .. tostring(problem) end
  local text = file:read(MAX_FILE_BYTES + 1)
  file:close()
  if not text then return nil, "is empty" end
  if #text > MAX_FILE_BYTES then return nil, "is larger than " .. MAX_FILE_BYTES .. " bytes" end
  local result, reason = config.parse(text)
  return result, reason, text
end

return config
