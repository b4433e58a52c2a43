-- What the workers of one gateway share: which trackers and nodes answered lately, tracker addresses, the cluster id. All of it is a guess that
-- expires; losing it costs a timeout, never a wrong answer. Lives in the shared dictionary `mogile_state`.

local state = {}

local shared = ngx.shared.mogile_state

function state.get(name) return shared:get(name) end

function state.set(name, value, seconds) return shared:set(name, value, seconds or 0) end

function state.forget(name) shared:delete(name) end

return state
