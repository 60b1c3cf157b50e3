-- Lists in which tenants take turns: webhooks and summaries.
-- `LIST:TENANT` holds a tenant's members by due time; `LIST` holds the tenants by the time from which they may be served next,
-- so that serving the lowest first is round robin.

local function leave_turns(list, tenant, member)
  redis.call('ZREM', key(list .. ':' .. tenant), member)
  if redis.call('EXISTS', key(list .. ':' .. tenant)) == 0 then redis.call('ZREM', key(list), tenant) end
end

-- Take up to `limit` due members, of each tenant in turn, and hide them for hold_ms (visibility timeout). A tenant gets `most`
-- less what it has `in_flight`. Returns pairs of tenant and member.
local function take_in_turn(list, limit, hold_ms, most, in_flight)
  local t, busy = now(), 0
  for _, count in pairs(in_flight) do
    if count >= most then busy = busy + 1 end
  end
  -- Due members of each tenant, as many as it may have, from the tenant that has waited longest.
  local queues, longest = {}, 0
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', key(list), '-inf', t, 'LIMIT', 0, limit + busy)) do
    local room = math.min(most - (in_flight[tenant] or 0), limit)
    if room > 0 then
      local due = redis.call('ZRANGEBYSCORE', key(list .. ':' .. tenant), '-inf', t, 'LIMIT', 0, room)
      queues[#queues + 1] = { tenant, due }
      longest = math.max(longest, #due)
    end
  end
  local taken = {}
  for turn = 1, longest do
    for _, queue in ipairs(queues) do
      if queue[2][turn] and #taken < limit then
        redis.call('ZADD', key(list .. ':' .. queue[1]), t + hold_ms, queue[2][turn])
        taken[#taken + 1] = { queue[1], queue[2][turn] }
      end
    end
  end
  -- A tenant that has had its turn goes behind those that have not.
  for _, queue in ipairs(queues) do
    local first = redis.call('ZRANGE', key(list .. ':' .. queue[1]), 0, 0, 'WITHSCORES')[2]
    if first then
      redis.call('ZADD', key(list), math.max(tonumber(first), t), queue[1])
    else
      redis.call('ZREM', key(list), queue[1])
    end
  end
  return taken
end
