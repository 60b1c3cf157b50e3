-- ARGV: limit, hold_ms, most (in flight of a tenant), tenant, in flight, ... Takes due deliveries, of each tenant in turn, and
-- hides them for hold_ms (visibility timeout). Returns {id, tries, tenant} of each.
local in_flight, deliveries = {}, {}
for i = 4, #ARGV, 2 do in_flight[ARGV[i]] = tonumber(ARGV[i + 1]) end
for _, taken in ipairs(take_in_turn('webhooks', tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), in_flight)) do
  local tenant, id = unpack(taken)
  deliveries[#deliveries + 1] = { id, redis.call('HGET', key('delivery:' .. id), 'tries') or '0', tenant }
end
return deliveries
