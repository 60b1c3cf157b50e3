-- ARGV: limit, hold_ms, id. Returns {id, tries, tenant} of each delivery that is due, and puts it off by hold_ms: whoever took it
-- may die. With an id, that one alone is put off, if it is still to be made.
local t, found = now(), {}
if ARGV[3] then
  redis.call('ZADD', key('webhooks'), 'XX', t + tonumber(ARGV[2]), ARGV[3])
  return found
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', t, 'LIMIT', 0, tonumber(ARGV[1]))) do
  redis.call('ZADD', key('webhooks'), t + tonumber(ARGV[2]), id)
  local tenant = redis.call('HGET', job_key(string.match(id, '^[^:]+')), 'tenant')
  table.insert(found, { id, redis.call('HGET', key('delivery:' .. id), 'tries') or '0', tenant or '' })
end
return found
