-- Encoding of the tracker's line protocol and of HTTP paths. Pure. Every byte of a key that is not plainly safe is percent-encoded, so that a key
-- can never add a parameter to a tracker request (the old nginx module let `&` and `=` through).

local escape = {}

function escape.encode(text)
  return (text:gsub("[^%w_.,/:-]", function(char) return char == " " and "+" or string.format("%%%02X", char:byte()) end))
end

local function percent_decode(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

function escape.decode(text)
  return percent_decode((text:gsub("+", " ")))
end

-- Pairs of an answer as a table; the last of a repeated name wins (no tracker repeats one in an answer).
function escape.pairs(text)
  local values = {}
  for name, value in text:gmatch("([^&=]+)=?([^&]*)") do values[escape.decode(name)] = escape.decode(value) end
  return values
end

-- Request line from an ordered list {{name, value}, ...}; nil values are left out.
function escape.line(command, arguments)
  local parts = {}
  for _, pair in ipairs(arguments) do
    if pair[2] ~= nil then parts[#parts + 1] = escape.encode(pair[1]) .. "=" .. escape.encode(tostring(pair[2])) end
  end
  return command .. " " .. table.concat(parts, "&") .. "\r\n"
end

-- The decoded key of a raw request target below `prefix`; nil when the target, decoded but not normalised, does not begin with the prefix
-- (then its dot segments lead somewhere else than they seem to, and no location may claim it).
function escape.key(target, prefix)
  local decoded = percent_decode((target:match("^[^?#]*")))
  if decoded:sub(1, #prefix) ~= prefix then return nil end
  return decoded:sub(#prefix + 1)
end

return escape
