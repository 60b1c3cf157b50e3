-- ARGV: id, tenant/owner. Makes a delivery due now, with all its tries before it. Returns 1, or 0 where the owner has none such.
local place = key('delivery:' .. ARGV[1])
if redis.call('HGET', place, 'owner') ~= ARGV[2] then return 0 end
redis.call('HSET', place, 'tries', 0, 'state', 'pending')
redis.call('ZADD', key('webhooks'), now(), ARGV[1])
return 1
