-- ARGV: worker, lease_ms, cap (running jobs per tenant, 0 for no cap). Claims the next job. Returns {id, token} or nil.
-- Start-time fair queueing: the tenant with the lowest start tag goes first and advances by 1 / weight.
local t, cap = now(), tonumber(ARGV[3])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', t, 'LIMIT', 0, 100)) do
  redis.call('ZREM', key('delayed'), id)
  enqueue(id)
end
for _, tenant in ipairs(redis.call('ZRANGE', key('tenants'), 0, -1)) do
  local running = tonumber(redis.call('HGET', key('running'), tenant) or '0')
  if cap == 0 or running < cap then
    local id = redis.call('ZPOPMIN', key('wait:' .. tenant))[1]
    if id then
      local start = tonumber(redis.call('ZSCORE', key('tenants'), tenant))
      redis.call('SET', key('clock'), start)
      local turn = 1 / tonumber(redis.call('HGET', key('weights'), tenant) or '1')
      redis.call('HSET', key('finish'), tenant, start + turn)
      local more = redis.call('ZCARD', key('wait:' .. tenant)) > 0
      if more then
        redis.call('ZADD', key('tenants'), start + turn, tenant)
      else
        redis.call('ZREM', key('tenants'), tenant)
      end
      note_pace(tenant, t, more)
      emit_positions(tenant)
      local token = tostring(redis.call('INCR', key('token')))
      redis.call('HSET', job_key(id), 'token', token, 'worker', ARGV[1])
      if redis.call('HSETNX', job_key(id), 'started_at', t) == 1 then
        observe('wait_ms', t - tonumber(redis.call('HGET', job_key(id), 'created_at')))
      end
      redis.call('HINCRBY', job_key(id), 'attempts', 1)
      redis.call('ZADD', key('leases'), t + tonumber(ARGV[2]), id)
      redis.call('HINCRBY', key('running'), tenant, 1)
      set_phase(id, 'downloading')
      return { id, token }
    end
  end
end
return false
