-- Content types by the ending of a key: MogileFS keeps none, and a browser needs one. Unknown endings are bytes.

local mime = {}

local TYPES = {
  avif = "image/avif", bmp = "image/bmp", css = "text/css", csv = "text/csv", gif = "image/gif", gz = "application/gzip", htm = "text/html",
  html = "text/html", ico = "image/x-icon", jpeg = "image/jpeg", jpg = "image/jpeg", js = "text/javascript", json = "application/json",
  md = "text/markdown", mjs = "text/javascript", mkv = "video/x-matroska", mov = "video/quicktime", mp3 = "audio/mpeg", mp4 = "video/mp4",
  ogg = "audio/ogg", opus = "audio/ogg", pdf = "application/pdf", png = "image/png", svg = "image/svg+xml", tar = "application/x-tar",
  tif = "image/tiff", tiff = "image/tiff", txt = "text/plain", wasm = "application/wasm", wav = "audio/wav", webm = "video/webm",
  webp = "image/webp", woff = "font/woff", woff2 = "font/woff2", xml = "application/xml", zip = "application/zip",
}

function mime.of(key)
  local ending = key:match("%.(%w+)$")
  return ending and TYPES[ending:lower()] or "application/octet-stream"
end

return mime
