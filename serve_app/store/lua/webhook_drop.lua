-- ARGV: id. A delivery that will not be made any more.
local place = key('delivery:' .. ARGV[1])
redis.call('ZREM', key('webhooks'), ARGV[1])
if redis.call('EXISTS', place) == 1 then redis.call('HSET', place, 'state', 'dead') end
return 1
