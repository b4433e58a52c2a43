-- A and AAAA records of a name, all of them. nginx's own resolver hands a cosocket one address of its choice; the gateway wants every tracker behind a
-- headless Service. Duty: one question to one name server over UDP, over TCP when the answer was cut short. Names are asked for as written (no search
-- domains: write fully qualified names). Limits: TIMEOUT_MS per try, TRIES tries, MAX_ADDRESSES addresses.

local address = require "mogile.address"

local dns = {}

local TIMEOUT_MS = 1000
local TRIES = 2
local MAX_ADDRESSES = 64
local MAX_JUMPS = 16
local TYPE_A, TYPE_AAAA, TYPE_OPT = 1, 28, 41
local NAME_ERROR = 3

local function u16(number)
  return string.char(math.floor(number / 256) % 256, number % 256)
end

local function read16(data, position)
  local high, low = data:byte(position, position + 1)
  if not low then error({ dns_error = "the answer is cut off" }, 0) end
  return high * 256 + low
end

function dns.question(id, name, record_type)
  local labels = {}
  for label in (name:gsub("%.$", "") .. "."):gmatch("(.-)%.") do labels[#labels + 1] = string.char(#label) .. label end
  -- recursion desired; one question; one additional record: EDNS0, so that many addresses fit into one datagram
  return u16(id) .. "\1\0\0\1\0\0\0\0\0\1" .. table.concat(labels) .. "\0" .. u16(record_type) .. "\0\1"
    .. "\0" .. u16(TYPE_OPT) .. u16(1232) .. "\0\0\0\0\0\0"
end

local function skip_name(data, position)
  for _ = 1, 128 do
    local length = data:byte(position)
    if not length then error({ dns_error = "the answer is cut off" }, 0) end
    if length == 0 then return position + 1 end
    if length >= 0xC0 then return position + 2 end
    position = position + 1 + length
  end
  error({ dns_error = "a name in the answer has no end" }, 0)
end

local function spell_ipv6(bytes)
  local groups = {}
  for index = 1, 16, 2 do groups[#groups + 1] = string.format("%x", read16(bytes, index)) end
  return "[" .. table.concat(groups, ":") .. "]"
end

local function parse(data, id)
  if #data < 12 or read16(data, 1) ~= id then error({ dns_error = "the answer is not for this question" }, 0) end
  local flags, questions, answers = read16(data, 3), read16(data, 5), read16(data, 7)
  if flags < 0x8000 then error({ dns_error = "the answer is a question" }, 0) end
  if math.floor(flags / 0x200) % 2 == 1 then return nil, "truncated" end
  local code = flags % 16
  if code == NAME_ERROR then return {} end
  if code ~= 0 then error({ dns_error = "the name server answered with code " .. code }, 0) end
  local position, found = 13, {}
  for _ = 1, math.min(questions, MAX_JUMPS) do position = skip_name(data, position) + 4 end
  for _ = 1, answers do
    position = skip_name(data, position)
    local record_type, length = read16(data, position), read16(data, position + 8)
    local value = data:sub(position + 10, position + 9 + length)
    if #value < length then error({ dns_error = "the answer is cut off" }, 0) end
    if #found < MAX_ADDRESSES then
      if record_type == TYPE_A and length == 4 then found[#found + 1] = table.concat({ value:byte(1, 4) }, ".") end
      if record_type == TYPE_AAAA and length == 16 then found[#found + 1] = spell_ipv6(value) end
    end
    position = position + 10 + length
  end
  return found
end

-- Addresses; or nil and "truncated"; or nil and a sentence.
function dns.answer(data, id)
  local ok, found, reason = pcall(parse, data, id)
  if ok then return found, reason end
  if type(found) == "table" and found.dns_error then return nil, found.dns_error end
  error(found, 0)
end

local function ask_udp(server, id, question)
  local socket = ngx.socket.udp()
  socket:settimeout(TIMEOUT_MS)
  local ok, problem = socket:setpeername(server.host, server.port)
  if not ok then return nil, problem end
  ok, problem = socket:send(question)
  local data
  if ok then data, problem = socket:receive(4096) end
  socket:close()
  if not data then return nil, problem end
  return dns.answer(data, id)
end

local function ask_tcp(server, id, question)
  local socket = ngx.socket.tcp()
  socket:settimeout(TIMEOUT_MS)
  local ok, problem = socket:connect(server.host, server.port)
  if not ok then return nil, problem end
  local head, data
  ok, problem = socket:send(u16(#question) .. question)
  if ok then head, problem = socket:receive(2) end
  if head then data, problem = socket:receive(read16(head, 1)) end
  socket:close()
  if not data then return nil, problem end
  return dns.answer(data, id)
end

local function ask(server, name, record_type)
  local found, problem
  for _ = 1, TRIES do
    local id = math.random(0, 65535)
    local question = dns.question(id, name, record_type)
    found, problem = ask_udp(server, id, question)
    if problem == "truncated" then found, problem = ask_tcp(server, id, question) end
    if found then return found end
  end
  return nil, problem
end

local function read_lines(path)
  local file = io.open(path, "rb")
  if not file then return function() end end
  local text = file:read(65536) or ""
  file:close()
  return text:gmatch("[^\n]+")
end

-- The first name server of /etc/resolv.conf, for configurations that name none.
function dns.system_server()
  for line in read_lines("/etc/resolv.conf") do
    local host = line:match("^%s*nameserver%s+(%S+)")
    if host and host:find(":", 1, true) then host = "[" .. host .. "]" end
    if host and address.is_ip(host) then return { host = host, port = 53 } end
  end
end

local function hosts_file(name)
  local found = {}
  for line in read_lines("/etc/hosts") do
    local words = {}
    for word in line:gsub("#.*", ""):gmatch("%S+") do words[#words + 1] = word end
    for index = 2, #words do
      if words[index]:lower() == name:lower() then
        local host = words[1]:find(":", 1, true) and "[" .. words[1] .. "]" or words[1]
        if address.is_ip(host) then found[#found + 1] = host end
      end
    end
  end
  return found
end

-- All addresses of a name (never an empty list), or nil and a sentence. /etc/hosts comes first, as everywhere.
function dns.resolve(server, name)
  local found = hosts_file(name)
  if #found > 0 then return found end
  if not server then return nil, "no name server is known" end
  local problem
  for _, record_type in ipairs({ TYPE_A, TYPE_AAAA }) do
    local part, reason = ask(server, name, record_type)
    problem = problem or reason
    for _, host in ipairs(part or {}) do found[#found + 1] = host end
  end
  if #found > 0 then return found end
  return nil, problem or "the name has no address"
end

return dns
