-- ARGV: id, tenant/owner, url, attempt (JSON), state, next_ms, keep_ms. A try was made: it is written down, and the delivery put
-- off by next_ms, or done with. Nothing is written of a job that was purged meanwhile, nor is one made again that goes on.
local id, place, index, t = ARGV[1], key('delivery:' .. ARGV[1]), key('deliveries:' .. ARGV[2]), now()
count('webhooks_' .. (ARGV[5] == 'pending' and 'failed' or ARGV[5]))
local done = redis.call('HGET', job_key(string.match(id, '^[^:]+')), 'done_event')
if not redis.call('ZSCORE', key('webhooks'), id) and not done then return 0 end
if redis.call('HSETNX', place, 'created_at', t) == 1 then
  redis.call('HSET', place, 'owner', ARGV[2], 'tries', 0, 'log', '')
  redis.call('ZADD', index, redis.call('INCR', key('seq')), id)
end
redis.call('HINCRBY', place, 'tries', 1)
redis.call('HSET', place, 'url', ARGV[3], 'state', ARGV[5], 'log', redis.call('HGET', place, 'log') .. ARGV[4] .. '\n')
redis.call('PEXPIRE', place, ARGV[7])
redis.call('PEXPIRE', index, ARGV[7])
if ARGV[5] == 'pending' and done and delivery(string.match(id, '^[^:]+'), done) == id then
  redis.call('ZADD', key('webhooks'), t + tonumber(ARGV[6]), id)
else
  redis.call('ZREM', key('webhooks'), id)
  if ARGV[5] == 'pending' then redis.call('HSET', place, 'state', 'dead') end
end
return 1
