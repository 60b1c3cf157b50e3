-- ARGV: id, tenant. Gives up a delivery (dead letter). Returns 1.
leave_turns('webhooks', ARGV[2], ARGV[1])
local record = key('delivery:' .. ARGV[1])
if redis.call('EXISTS', record) == 1 then redis.call('HSET', record, 'state', 'dead') end
return 1
