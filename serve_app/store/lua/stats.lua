-- ARGV: first, tenants. Looks at some tenants' queues, from the one with rank `first`. Returns {tenants looked at, jobs
-- waiting, webhooks waiting, creation of the oldest job at the head of a queue in milliseconds (0 if there is none), now,
-- leases, delayed jobs, counters}; the last three for the first tenants only.
local first, last = tonumber(ARGV[1]), tonumber(ARGV[1]) + tonumber(ARGV[2]) - 1
local waiting, webhooks, oldest = 0, 0, 0
local tenants = redis.call('ZRANGE', key('tenants'), first, last)
for _, tenant in ipairs(tenants) do
  waiting = waiting + redis.call('ZCARD', key('wait:' .. tenant))
  local head = redis.call('ZRANGE', key('wait:' .. tenant), 0, 0)[1]
  local created_at = tonumber(head and redis.call('HGET', job_key(head), 'created_at') or '0')
  if created_at > 0 and (oldest == 0 or created_at < oldest) then oldest = created_at end
end
local receivers = redis.call('ZRANGE', key('webhooks'), first, last)
for _, tenant in ipairs(receivers) do webhooks = webhooks + redis.call('ZCARD', key('webhooks:' .. tenant)) end
local reply = { math.max(#tenants, #receivers), waiting, webhooks, oldest, now() }
if first == 0 then
  reply[6], reply[7] = redis.call('ZCARD', key('leases')), redis.call('ZCARD', key('delayed'))
  reply[8] = redis.call('HGETALL', key('metrics'))
end
return reply
