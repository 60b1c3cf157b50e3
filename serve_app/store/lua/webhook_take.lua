-- ARGV: limit, hold_ms. Returns {id, tries, tenant} of due deliveries and hides them for hold_ms (visibility timeout).
local t, deliveries = now(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', t, 'LIMIT', 0, tonumber(ARGV[1]))) do
  redis.call('ZADD', key('webhooks'), t + tonumber(ARGV[2]), id)
  local tenant = redis.call('HGET', job_key(string.match(id, '^[^:]+')), 'tenant')
  table.insert(deliveries, { id, redis.call('HGET', key('delivery:' .. id), 'tries') or '0', tenant or '' })
end
return deliveries
