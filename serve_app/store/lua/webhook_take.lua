-- ARGV: limit, hold_ms, most (in flight of a tenant), tenant, in flight, ... Takes due deliveries, of each tenant in turn, and
-- hides them for hold_ms (visibility timeout). Returns {id, tries, tenant} of each.
local t, limit, hold_ms, most = now(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local in_flight, busy = {}, 0
for i = 4, #ARGV, 2 do
  in_flight[ARGV[i]] = tonumber(ARGV[i + 1])
  if in_flight[ARGV[i]] >= most then busy = busy + 1 end
end

-- Due deliveries of each tenant, as many as it may have, from the tenant that has waited longest.
local queues, longest = {}, 0
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', t, 'LIMIT', 0, limit + busy)) do
  local room = math.min(most - (in_flight[tenant] or 0), limit)
  if room > 0 then
    local due = redis.call('ZRANGEBYSCORE', key('webhooks:' .. tenant), '-inf', t, 'LIMIT', 0, room)
    queues[#queues + 1] = { tenant, due }
    longest = math.max(longest, #due)
  end
end

local taken = {}
for turn = 1, longest do
  for _, queue in ipairs(queues) do
    local tenant, id = queue[1], queue[2][turn]
    if id and #taken < limit then
      redis.call('ZADD', key('webhooks:' .. tenant), t + hold_ms, id)
      taken[#taken + 1] = { id, redis.call('HGET', key('delivery:' .. id), 'tries') or '0', tenant }
    end
  end
end

-- A tenant that has had its turn goes behind those that have not.
for _, queue in ipairs(queues) do
  local tenant = queue[1]
  local first = redis.call('ZRANGE', key('webhooks:' .. tenant), 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', key('webhooks'), math.max(tonumber(first[2]), t), tenant)
  else
    redis.call('ZREM', key('webhooks'), tenant)
  end
end
return taken
