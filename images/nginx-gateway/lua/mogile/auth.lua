-- Bearer tokens. A token file holds one token per line, so that an old and a new one can both be good while clients change over; it is looked at again at
-- most once per RELOAD_SECONDS, which follows a rotated Kubernetes Secret without a reload. A file that cannot be read, or holds nothing, lets nobody in.
-- Comparison is of keyed digests, all bytes, so its time says nothing about the token.

local bit = require "bit"

local auth = {}

local RELOAD_SECONDS = 1
local MAX_FILE_BYTES = 16384
local MAX_TOKENS = 16

local secret
local files = {}

local function digest(text)
  return ngx.hmac_sha1(secret, text)
end

function auth.init()
  local random = io.open("/dev/urandom", "rb")
  secret = random and random:read(32) or tostring({}) .. os.time() .. os.clock()
  if random then random:close() end
end

local function load(path)
  local digests = {}
  local file = io.open(path, "rb")
  local text = file and file:read(MAX_FILE_BYTES)
  if file then file:close() end
  for token in (text or ""):gmatch("[^%s]+") do
    if #digests < MAX_TOKENS then digests[#digests + 1] = digest(token) end
  end
  if #digests == 0 then ngx.log(ngx.ERR, "token file ", path, " holds no token: nobody is let in") end
  return digests
end

local function digests_of(path)
  local known = files[path]
  local now = ngx.now()
  if not known or now - known.at >= RELOAD_SECONDS or now < known.at then
    known = { at = now, digests = load(path) }
    files[path] = known
  end
  return known.digests
end

local function equal(left, right)
  local difference = bit.bxor(#left, #right)
  for index = 1, math.min(#left, #right) do difference = bit.bor(difference, bit.bxor(left:byte(index), right:byte(index))) end
  return difference == 0
end

-- 200, 401 (no token) or 403 (a wrong one) for the value of an Authorization header.
function auth.check(path, header)
  local scheme, token = (header or ""):match("^%s*(%S+)%s+(%S+)%s*$")
  if not scheme or scheme:lower() ~= "bearer" then return 401 end
  local offered, good = digest(token), false
  for _, known in ipairs(digests_of(path)) do good = equal(offered, known) or good end
  return good and 200 or 403
end

return auth
