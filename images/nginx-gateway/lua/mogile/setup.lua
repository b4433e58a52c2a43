-- The part of `mogile-gateway` that needs a real language: run once by a throw-away nginx (its LuaJIT is the only interpreter the image has), it checks
-- gateway.json and the addresses, writes nginx.conf and ends the process. Exit codes: 0 written, 2 one sentence on stderr. Settings come as environment
-- variables MOGILE_SETUP_* from the shell script, because a path cannot be quoted safely into a configuration file that is not yet checked.

local config = require "mogile.config"
local render = require "mogile.render"

local setup = {}

local LISTEN_STATE = "0A"

local function refuse(message)
  io.stderr:write("mogile-gateway: ", message, "\n")
  os.exit(2)
end

local function write(path, text)
  local file, problem = io.open(path .. ".new", "wb")
  if not file then refuse("the run directory cannot be written: " .. problem) end
  file:write(text)
  file:close()
  local ok, reason = os.rename(path .. ".new", path)
  if not ok then refuse("the run directory cannot be written: " .. reason) end
end

-- The kernel's spelling of an IPv4 address in /proc/net/tcp on a little-endian machine.
local function spelled(host)
  local a, b, c, d = host:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
  return a and string.format("%02X%02X%02X%02X", d, c, b, a)
end

-- nginx itself complains five times over two seconds about a busy port; one sentence beforehand is kinder. It may miss a race: nginx then still fails.
local function busy(listen)
  local file = io.open("/proc/net/tcp", "rb")
  local wanted = spelled(listen.host)
  if not file or not wanted then return false end
  for line in file:lines() do
    local host, port, state = line:match("^%s*%d+: (%x+):(%x+) %x+:%x+ (%x+)")
    if state == LISTEN_STATE and tonumber(port, 16) == listen.port
      and (host == wanted or host == "00000000" or wanted == "00000000") then
      file:close()
      return true
    end
  end
  file:close()
  return false
end

function setup.main()
  local path = os.getenv("MOGILE_SETUP_CONFIG")
  local settings, problem, text = config.load(path)
  if not settings then refuse(path .. ": " .. problem) end
  if os.getenv("MOGILE_SETUP_FIRST") == "1" then
    for _, field in ipairs({ "listen", "metrics_listen" }) do
      if busy(settings[field]) then
        refuse((field == "listen" and "listen" or "metricsListen") .. ": " .. settings[field].text .. " is in use by another program")
      end
    end
  end
  local modules = {}
  for file in os.getenv("MOGILE_SETUP_MODULES"):gmatch("[^\n]+") do modules[#modules + 1] = file end
  local run = os.getenv("MOGILE_SETUP_RUN")
  write(run .. "/gateway.json", text)
  write(run .. "/nginx.conf", render.nginx(settings, {
    source = os.getenv("MOGILE_SETUP_SOURCE"), run = run, modules = modules,
    drain_seconds = os.getenv("MOGILE_SETUP_DRAIN_SECONDS"), root = os.getenv("MOGILE_SETUP_ROOT") == "1",
    files = tonumber(os.getenv("MOGILE_SETUP_FILES")),
  }))
  os.exit(0)
end

return setup
