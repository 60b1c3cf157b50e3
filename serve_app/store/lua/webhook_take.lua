-- ARGV: limit, hold_ms. Returns {id, tries, tenant} of each delivery that is due, and puts it off by hold_ms: whoever took it
-- may die.
local t, found = now(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', t, 'LIMIT', 0, tonumber(ARGV[1]))) do
  redis.call('ZADD', key('webhooks'), t + tonumber(ARGV[2]), id)
  local tenant = redis.call('HGET', job_key(string.match(id, '^[^:]+')), 'tenant')
  table.insert(found, { id, redis.call('HGET', key('delivery:' .. id), 'tries') or '0', tenant or '' })
end
return found
