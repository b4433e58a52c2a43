-- Counters of all workers in the shared dictionary `mogile_metrics`, shown as Prometheus text. Cardinality is bounded: locations are those configured,
-- methods and tracker commands are closed lists. A counter's key is its whole sample name with labels, so rendering is a sorted dump.

local metrics = {}

local shared = ngx.shared.mogile_metrics
local BUCKETS = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60 }
local METHODS = { GET = true, HEAD = true, PUT = true, DELETE = true }
local MAX_SAMPLES = 8192
local FAMILIES = {
  { "mogile_gateway_requests_total", "counter", "Requests answered." },
  { "mogile_gateway_request_duration_seconds", "histogram", "Time from the first byte of a request to the last of its answer." },
  { "mogile_gateway_received_bytes_total", "counter", "Bytes of requests, headers included." },
  { "mogile_gateway_sent_bytes_total", "counter", "Bytes of answers, headers included." },
  { "mogile_gateway_tracker_requests_total", "counter", "Commands sent to trackers: ok, error (an error answer) or unreachable (no answer)." },
  { "mogile_gateway_node_failures_total", "counter", "Storage nodes that refused, hung or failed: read (another copy was tried), probe or write." },
  { "mogile_gateway_failovers_total", "counter", "Reads that went on to another copy." },
}

local function add(name, amount)
  shared:incr(name, amount, 0)
end

function metrics.tracker(command, result)
  add(string.format('mogile_gateway_tracker_requests_total{command="%s",result="%s"}', command, result), 1)
end

function metrics.node_failure(phase)
  add(string.format('mogile_gateway_node_failures_total{phase="%s"}', phase), 1)
end

function metrics.failover(location)
  add(string.format('mogile_gateway_failovers_total{location="%s"}', location), 1)
end

-- One finished request.
function metrics.request(location, method, status, seconds, received, sent)
  method = METHODS[method] and method or "other"
  local place = string.format('location="%s"', location)
  local labels = string.format('%s,method="%s"', place, method)
  add(string.format('mogile_gateway_requests_total{%s,code="%s"}', labels, status), 1)
  add("mogile_gateway_received_bytes_total{" .. place .. "}", received)
  add("mogile_gateway_sent_bytes_total{" .. place .. "}", sent)
  add("mogile_gateway_request_duration_seconds_sum{" .. labels .. "}", seconds)
  local slot = #BUCKETS + 1
  for index = #BUCKETS, 1, -1 do
    if seconds <= BUCKETS[index] then slot = index end
  end
  add(string.format("slot %d %s", slot, labels), 1)
end

local function histograms(keys, out)
  local series = {}
  for _, key in ipairs(keys) do
    local slot, labels = key:match("^slot (%d+) (.*)$")
    if slot then
      series[labels] = series[labels] or {}
      series[labels][tonumber(slot)] = shared:get(key)
    end
  end
  for labels, slots in pairs(series) do
    local total = 0
    for index = 1, #BUCKETS + 1 do
      total = total + (slots[index] or 0)
      local edge = BUCKETS[index] and tostring(BUCKETS[index]) or "+Inf"
      out[#out + 1] = string.format('mogile_gateway_request_duration_seconds_bucket{%s,le="%s"} %d', labels, edge, total)
    end
    out[#out + 1] = string.format("mogile_gateway_request_duration_seconds_count{%s} %d", labels, total)
  end
end

local function number(value)
  return value % 1 == 0 and string.format("%.0f", value) or string.format("%.6f", value)
end

-- The whole page; `gauges` is a list of {name, help, {{labels, value}, ...}} for what is not counted here.
function metrics.page(gauges)
  local keys, lines = shared:get_keys(MAX_SAMPLES), {}
  for _, key in ipairs(keys) do
    if not key:find("^slot ") then lines[#lines + 1] = key .. " " .. number(shared:get(key) or 0) end
  end
  table.sort(lines)
  histograms(keys, lines)
  local page = {}
  for _, family in ipairs(FAMILIES) do
    page[#page + 1] = "# HELP " .. family[1] .. " " .. family[3]
    page[#page + 1] = "# TYPE " .. family[1] .. " " .. family[2]
    for _, one in ipairs(lines) do
      local rest = one:sub(1, #family[1]) == family[1] and one:sub(#family[1] + 1)
      if rest and (rest:find("^{") or rest:find("^_bucket{") or rest:find("^_sum{") or rest:find("^_count{")) then page[#page + 1] = one end
    end
  end
  for _, gauge in ipairs(gauges) do
    page[#page + 1] = "# HELP " .. gauge[1] .. " " .. gauge[2]
    page[#page + 1] = "# TYPE " .. gauge[1] .. " gauge"
    for _, sample in ipairs(gauge[3]) do page[#page + 1] = gauge[1] .. sample[1] .. " " .. number(sample[2]) end
  end
  return table.concat(page, "\n") .. "\n"
end

return metrics
