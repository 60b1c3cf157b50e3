-- ARGV: limit, hold_ms. Takes jobs whose summary is due, of each tenant in turn, and hides them for hold_ms (visibility
-- timeout). Returns their ids.
local ids, limit = {}, tonumber(ARGV[1])
for _, taken in ipairs(take_in_turn('summaries', limit, tonumber(ARGV[2]), limit, {})) do
  local tenant, id = unpack(taken)
  if redis.call('HEXISTS', job_key(id), 'tenant') == 1 then
    ids[#ids + 1] = id
  else
    leave_turns('summaries', tenant, id)
  end
end
return ids
