-- ARGV: id. Gives up a delivery (dead letter).
local record = key('delivery:' .. ARGV[1])
redis.call('ZREM', key('webhooks'), ARGV[1])
if redis.call('EXISTS', record) == 1 then redis.call('HSET', record, 'state', 'dead') end
return 1
