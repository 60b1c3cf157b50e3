-- ARGV: limit, hold_ms. Returns {id, tries} of each delivery that is due, and puts it off by hold_ms: whoever took it may die.
local t, found = now(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', t, 'LIMIT', 0, tonumber(ARGV[1]))) do
  redis.call('ZADD', key('webhooks'), t + tonumber(ARGV[2]), id)
  table.insert(found, { id, redis.call('HGET', key('delivery:' .. id), 'tries') or '0' })
end
return found
