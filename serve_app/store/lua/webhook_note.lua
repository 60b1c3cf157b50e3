-- ARGV: id, tenant, owner, url, attempt (JSON), state, next_ms, keep_ms. Logs an attempt for keep_ms; a `pending` delivery is
-- due again after next_ms, or dead if its job has expired. Returns 1, or 0 if the job was deleted or retried.
local id, tenant, owner, state, t = ARGV[1], ARGV[2], ARGV[3], ARGV[6], now()
local record, current = key('delivery:' .. ARGV[1]), is_current(ARGV[1])
local LOG_BYTES = 16384
count('webhooks_' .. (state == 'pending' and 'failed' or state))
if redis.call('EXISTS', record) == 0 then
  if not current then
    leave_turns('webhooks', tenant, id)
    return 0
  end
  redis.call('HSET', record, 'created_at', t, 'owner', tenant .. '/' .. owner, 'tries', 0, 'log', '')
  redis.call('ZADD', key('deliveries:' .. tenant .. '/' .. owner), redis.call('INCR', key('seq')), id)
end
redis.call('HINCRBY', record, 'tries', 1)
-- However often it is redelivered, the log keeps its last lines only.
local lines = redis.call('HGET', record, 'log') .. ARGV[5] .. '\n'
if #lines > LOG_BYTES then lines = string.match(string.sub(lines, -LOG_BYTES), '\n(.*)$') end
redis.call('HSET', record, 'url', ARGV[4], 'state', state, 'log', lines)
redis.call('ZADD', key('delivery_expiry'), t + tonumber(ARGV[8]), id)
if state == 'pending' and current then
  queue_in_turn('webhooks', tenant, id, t + tonumber(ARGV[7]))
else
  leave_turns('webhooks', tenant, id)
  if state == 'pending' then redis.call('HSET', record, 'state', 'dead') end
end
return 1
