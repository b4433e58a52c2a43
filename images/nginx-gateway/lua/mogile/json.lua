-- JSON reader for the one configuration file. Duty: turn text into Lua values or say where it is not JSON. It never writes JSON and never
-- sees anything a client sent. Objects and arrays are told apart by the metatables `json.object` and `json.array`, because `{}` and `[]` are
-- different mistakes in a configuration. Limits: nesting depth MAX_DEPTH; a name that occurs twice in one object is an error.

local json = { object = {}, array = {}, null = setmetatable({}, { __tostring = function() return "null" end }) }

local MAX_DEPTH = 32
local ESCAPES = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function fail(text, position, message)
  local line = 1
  for _ in text:sub(1, position - 1):gmatch("\n") do line = line + 1 end
  error({ json_error = string.format("line %d: %s", line, message) }, 0)
end

local function skip_space(text, position)
  return text:find("[^ \t\r\n]", position) or #text + 1
end

local function utf8(code)
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 0x40), 0x80 + code % 0x40) end
  if code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 0x1000), 0x80 + math.floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return string.char(0xF0 + math.floor(code / 0x40000), 0x80 + math.floor(code / 0x1000) % 0x40,
    0x80 + math.floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
end

local function read_unicode(text, position)
  local hex = text:match("^%x%x%x%x", position)
  if not hex then fail(text, position, "\\u needs four hexadecimal digits") end
  local code = tonumber(hex, 16)
  if code < 0xD800 or code > 0xDFFF then return utf8(code), position + 4 end
  local low = text:match("^\\u(%x%x%x%x)", position + 4)
  local second = low and tonumber(low, 16)
  if code > 0xDBFF or not second or second < 0xDC00 or second > 0xDFFF then
    fail(text, position, "a lone surrogate is not a character")
  end
  return utf8(0x10000 + (code - 0xD800) * 0x400 + (second - 0xDC00)), position + 10
end

local function read_string(text, position)
  local parts = {}
  position = position + 1
  while true do
    local stop = text:find('["\\%c]', position)
    if not stop then fail(text, position, "a string is not closed") end
    parts[#parts + 1] = text:sub(position, stop - 1)
    local mark = text:sub(stop, stop)
    if mark == '"' then return table.concat(parts), stop + 1 end
    if mark ~= "\\" then
      if mark ~= "\127" then fail(text, stop, "a control character inside a string must be escaped") end
      parts[#parts + 1], position = mark, stop + 1
    else
      local escape = text:sub(stop + 1, stop + 1)
      if escape == "u" then
        parts[#parts + 1], position = read_unicode(text, stop + 2)
      elseif ESCAPES[escape] then
        parts[#parts + 1], position = ESCAPES[escape], stop + 2
      else
        fail(text, stop, "an unknown escape in a string")
      end
    end
  end
end

local read_value

local function read_array(text, position, depth)
  local array = setmetatable({}, json.array)
  position = skip_space(text, position + 1)
  if text:sub(position, position) == "]" then return array, position + 1 end
  while true do
    local value
    value, position = read_value(text, position, depth)
    array[#array + 1] = value
    position = skip_space(text, position)
    local mark = text:sub(position, position)
    if mark == "]" then return array, position + 1 end
    if mark ~= "," then fail(text, position, "a comma or ] is missing") end
    position = position + 1
  end
end

local function read_object(text, position, depth)
  local object = setmetatable({}, json.object)
  position = skip_space(text, position + 1)
  if text:sub(position, position) == "}" then return object, position + 1 end
  while true do
    position = skip_space(text, position)
    if text:sub(position, position) ~= '"' then fail(text, position, "a field name in quotes is missing") end
    local name
    name, position = read_string(text, position)
    if object[name] ~= nil then fail(text, position, 'the field "' .. name .. '" occurs twice') end
    position = skip_space(text, position)
    if text:sub(position, position) ~= ":" then fail(text, position, 'a colon after "' .. name .. '" is missing') end
    object[name], position = read_value(text, position + 1, depth)
    position = skip_space(text, position)
    local mark = text:sub(position, position)
    if mark == "}" then return object, position + 1 end
    if mark ~= "," then fail(text, position, "a comma or } is missing") end
    position = position + 1
  end
end

local LITERALS = { { "true", true }, { "false", false }, { "null", json.null } }

read_value = function(text, position, depth)
  if depth > MAX_DEPTH then fail(text, position, "nested too deeply") end
  position = skip_space(text, position)
  local mark = text:sub(position, position)
  if mark == '"' then return read_string(text, position) end
  if mark == "{" then return read_object(text, position, depth + 1) end
  if mark == "[" then return read_array(text, position, depth + 1) end
  for _, literal in ipairs(LITERALS) do
    if text:sub(position, position + #literal[1] - 1) == literal[1] then return literal[2], position + #literal[1] end
  end
  local number = text:match("^-?%d+%.?%d*[eE]?[+-]?%d*", position)
  if number and tonumber(number) and not number:find("^-?0%d") and not number:find("%.$") and not number:find("%.[eE]") then
    return tonumber(number), position + #number
  end
  fail(text, position, mark == "" and "the text ends too early" or "a value is missing")
end

-- The value, or nil and one sentence that names the line.
function json.decode(text)
  local ok, result = pcall(function()
    local value, position = read_value(text, 1, 0)
    position = skip_space(text, position)
    if position <= #text then fail(text, position, "something follows the end") end
    return value
  end)
  if ok then return result end
  if type(result) == "table" and result.json_error then return nil, result.json_error end
  error(result, 0)
end

return json
