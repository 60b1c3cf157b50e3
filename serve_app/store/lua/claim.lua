-- ARGV: worker, lease_ms, cap (running jobs per tenant, 0 for no cap), request (id of this claim), salt (random, below
-- 2^16), free (places of the worker, the one for this job included), reserve (places that it keeps for interactive jobs of
-- tenants with less than their share). Claims the next job. Returns {id, token} or nil.
-- Start-time fair queueing: the tenant with the lowest start tag goes first and advances by 1 / weight.
local t, worker, cap, request = now(), ARGV[1], tonumber(ARGV[3]), key('claim:' .. ARGV[4])
local free, reserve = tonumber(ARGV[6]), tonumber(ARGV[7])
local REPEAT_MS = 60000  -- redis-py sends a command again if the reply was lost

-- A failover may lose the counter's last steps: with random bits, two claims of one job still get different tokens.
local function next_token() return string.format('%.0f', redis.call('INCR', key('token')) * 65536 + tonumber(ARGV[5])) end

-- First job of a tenant's queue, without those whose hash is gone.
local function first_job(tenant)
  while true do
    local id = redis.call('ZRANGE', key('wait:' .. tenant), 0, 0)[1]
    if not id or redis.call('EXISTS', job_key(id)) == 1 then return id end
    unlink_ghost(id, tenant)
  end
end

local function next_job()
  local waiting = redis.call('ZRANGE', key('tenants'), 0, cap == 0 and 99 or -1)
  local may_use_reserve = free <= reserve and small_tenants(waiting)
  for _, tenant in ipairs(waiting) do
    local may_run = cap == 0 or running_jobs(tenant) < cap
    if may_use_reserve then may_run = may_run and may_use_reserve[tenant] and is_urgent_waiting(tenant) end
    local id = may_run and first_job(tenant)
    if id then return id, tenant end
  end
end

-- Advance the clock and the tenant's tag.
local function take_turn(id, tenant)
  local start = start_tag(tenant)
  if start > tonumber(redis.call('GET', key('clock')) or '0') then redis.call('SET', key('clock'), start) end
  local finish = start + 1 / weight_of(tenant)
  redis.call('HSET', key('finish'), tenant, finish)
  unqueue(id, tenant)
  local more = not close_queue(tenant)
  if more then redis.call('ZADD', key('tenants'), finish, tenant) end
  note_pace(tenant, t, more)
  if more then emit_positions(tenant) end
end

local function take_lease(id, tenant)
  local token = next_token()
  if redis.call('HSETNX', job_key(id), 'started_at', t) == 1 then
    local created_at, retried_at = unpack(redis.call('HMGET', job_key(id), 'created_at', 'retried_at'))
    observe('wait_ms', t - tonumber(retried_at or created_at))
  end
  redis.call('HSET', job_key(id), 'token', token, 'worker', worker, 'claimed_at', t, 'cap', cap)
  redis.call('HINCRBY', job_key(id), 'attempts', 1)
  redis.call('ZADD', key('leases'), t + tonumber(ARGV[2]), id)
  redis.call('HINCRBY', key('running'), tenant, 1)
  redis.call('HINCRBY', key('worker_jobs'), worker, 1)
  redis.call('HDEL', key('making_room'), tenant)
  redis.call('SET', request, id .. ' ' .. token, 'PX', REPEAT_MS)
  return token
end

local id, token = string.match(redis.call('GET', request) or '', '^(.*) (%d+)$')
if id and holds(id, token) then
  redis.call('ZADD', key('leases'), t + tonumber(ARGV[2]), id)
  return { id, token }
end
for _, due in ipairs(redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', t, 'LIMIT', 0, 100)) do
  redis.call('ZREM', key('delayed'), due)
  if not enqueue(due) then unlink_ghost(due) end
end
local tenant
id, tenant = next_job()
-- A place in reserve is none for just anybody.
local left = id and free - 1 or free
if left <= reserve then redis.call('ZREM', key('idle'), worker) else redis.call('ZADD', key('idle'), t, worker) end
if not id then return false end
take_turn(id, tenant)
token = take_lease(id, tenant)
set_phase(id, 'downloading')
return { id, token }
