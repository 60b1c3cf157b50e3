-- ARGV: id, tenant/owner, url, attempt (JSON), state, next_ms, keep_ms. A try was made: it is written down, and the delivery put
-- off by next_ms, or done with.
local id, place, t = ARGV[1], key('delivery:' .. ARGV[1]), now()
if redis.call('HSETNX', place, 'created_at', t) == 1 then
  redis.call('HSET', place, 'owner', ARGV[2], 'tries', 0, 'log', '')
  redis.call('ZADD', key('deliveries:' .. ARGV[2]), t, id)
end
redis.call('HINCRBY', place, 'tries', 1)
redis.call('HSET', place, 'url', ARGV[3], 'state', ARGV[5], 'log', redis.call('HGET', place, 'log') .. ARGV[4] .. '\n')
redis.call('PEXPIRE', place, ARGV[7])
redis.call('ZREMRANGEBYSCORE', key('deliveries:' .. ARGV[2]), '-inf', t - tonumber(ARGV[7]))
count('webhooks_' .. (ARGV[5] == 'pending' and 'failed' or ARGV[5]))
if ARGV[5] == 'pending' then
  redis.call('ZADD', key('webhooks'), t + tonumber(ARGV[6]), id)
else
  redis.call('ZREM', key('webhooks'), id)
end
