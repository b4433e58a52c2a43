-- Checked configuration and templates in, nginx.conf out. Pure but for reading the two templates. A value goes into the file only through `fill`;
-- every user-given text that gets there (run directory, location path) is restricted to characters that cannot end a quoted word.

local render = {}

local MAX_CONNECTIONS = 16384
local RESERVED_FILES = 64 -- logs, sockets that listen, the token files

-- What a path that belongs to no location gets; a location "/" takes its place.
local CATCH_ALL = '    location / { content_by_lua_block { require("mogile.gateway").no_location() } }\n'

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function fill(template, values)
  return (template:gsub("@([A-Z_]+)@", function(name)
    local value = values[name]
    assert(value ~= nil, "template names the unknown value " .. name)
    return value
  end))
end

-- `place` = {source, run, modules, drain_seconds, root, files}; `modules` is a list of files to load, in order.
function render.nginx(settings, place)
  local location_template = read(place.source .. "/templates/location.conf")
  local locations, catch_all = {}, CATCH_ALL
  for index, location in ipairs(settings.locations) do
    locations[index] = fill(location_template, { PATH = location.path, INDEX = tostring(index) })
    if location.path == "/" then catch_all = "" end
  end
  local modules = {}
  for index, file in ipairs(place.modules) do modules[index] = 'load_module "' .. file .. '";' end
  local limited = settings.connections_per_client > 0
  return fill(read(place.source .. "/templates/nginx.conf"), {
    CATCH_ALL = catch_all,
    MODULES = table.concat(modules, "\n"),
    USER = place.root and "user root;" or "",
    WORKERS = tostring(settings.workers),
    DRAIN_SECONDS = tostring(place.drain_seconds),
    FILES = tostring(place.files),
    CONNECTIONS = string.format("%d", math.max(64, math.min(MAX_CONNECTIONS, place.files - RESERVED_FILES))),
    RUN = place.run, SRC = place.source,
    MAX_BODY = string.format("%.0f", settings.max_body_bytes),
    LIMIT_ZONE = limited and "limit_conn_zone $binary_remote_addr zone=mogile_clients:4m;\n  limit_conn_status 429;" or "",
    LIMIT_CONN = limited and "limit_conn mogile_clients " .. settings.connections_per_client .. ";" or "",
    ACCESS_LOG = settings.access_log and "access_log /dev/stdout mogile;" or "",
    LISTEN = settings.listen.text, METRICS_LISTEN = settings.metrics_listen.text,
    LOCATIONS = table.concat(locations),
  })
end

return render
