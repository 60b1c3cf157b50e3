-- ARGV: id, tenant/owner, url, attempt (JSON), state, next_ms, keep_ms. Logs an attempt; a `pending` delivery is due again
-- after next_ms, or dead if its job was retried and ended again. Returns 1, or 0 if the job was deleted or is running again.
local id, record, index, t = ARGV[1], key('delivery:' .. ARGV[1]), key('deliveries:' .. ARGV[2]), now()
count('webhooks_' .. (ARGV[5] == 'pending' and 'failed' or ARGV[5]))
local done_event = redis.call('HGET', job_key(string.match(id, '^[^:]+')), 'done_event')
if not redis.call('ZSCORE', key('webhooks'), id) and not done_event then return 0 end
if redis.call('HSETNX', record, 'created_at', t) == 1 then
  redis.call('HSET', record, 'owner', ARGV[2], 'tries', 0, 'log', '')
  redis.call('ZADD', index, redis.call('INCR', key('seq')), id)
end
redis.call('HINCRBY', record, 'tries', 1)
redis.call('HSET', record, 'url', ARGV[3], 'state', ARGV[5], 'log', redis.call('HGET', record, 'log') .. ARGV[4] .. '\n')
redis.call('PEXPIRE', record, ARGV[7])
redis.call('PEXPIRE', index, ARGV[7])
if ARGV[5] == 'pending' and done_event and delivery(string.match(id, '^[^:]+'), done_event) == id then
  redis.call('ZADD', key('webhooks'), t + tonumber(ARGV[6]), id)
else
  redis.call('ZREM', key('webhooks'), id)
  if ARGV[5] == 'pending' then redis.call('HSET', record, 'state', 'dead') end
end
return 1
