-- ARGV: id, tenant, owner. Makes a delivery due now with a fresh count of tries.
-- Returns 1; 0 if its job is gone or was retried; nil if the owner has no such delivery.
local record = key('delivery:' .. ARGV[1])
if redis.call('HGET', record, 'owner') ~= ARGV[2] .. '/' .. ARGV[3] then return false end
if not is_current(ARGV[1]) then return 0 end
redis.call('HSET', record, 'tries', 0, 'state', 'pending')
queue_in_turn('webhooks', ARGV[2], ARGV[1], now())
return 1
