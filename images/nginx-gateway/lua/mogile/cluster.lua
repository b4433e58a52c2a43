-- The id of the cluster the trackers serve, sent to storage nodes with every request: a node that belongs to another cluster (an address used again)
-- answers 421 instead of giving or taking the wrong bytes, and nodes in `safe` mode refuse some writes without it. Known from the configuration, else
-- asked of a tracker; trackers that are not ours know no such command, then there is none.

local state = require "mogile.state"
local tracker = require "mogile.tracker"

local cluster = {}

local KNOWN_SECONDS = 60
local NONE_SECONDS = 10

local configured = ""

function cluster.configure(settings) configured = settings.cluster_id end

local function ask()
  local result = tracker.call("mogile_cluster", {})
  if result.code == "unreachable" or result.code == "db" then return "" end -- nobody said that there is none
  local id = result.ok and result.values.cluster_id or ""
  if not id:find("^[%x-]*$") or #id > 64 then id = "" end
  state.set("cluster", id, id == "" and NONE_SECONDS or KNOWN_SECONDS)
  if id ~= "" then state.set("cluster last", id) end
  return id
end

-- What is known without asking; "" when nothing is.
function cluster.known()
  if configured ~= "" then return configured end
  return state.get("cluster") or state.get("cluster last") or ""
end

-- What is known, asking a tracker when nothing is.
function cluster.id()
  if configured ~= "" then return configured end
  local id = state.get("cluster") or ask()
  return id ~= "" and id or state.get("cluster last") or ""
end

return cluster
