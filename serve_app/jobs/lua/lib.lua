-- Shared by every script: it is prepended to each. KEYS[1] is the prefix of all keys, with the hash tag in it, so that a
-- cluster keeps them in one slot. Times are the server's, in milliseconds.
local prefix = KEYS[1]
local CANCELLED = 'The job was cancelled.'

local function key(name) return prefix .. name end
local function job_key(id) return prefix .. 'job:' .. id end

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function emit(id, kind, data)
  local event = redis.call('XADD', key('events:' .. id), '*', 'kind', kind, 'data', data)
  redis.call('PUBLISH', key('wake'), id)
  return event
end

local function set_phase(id, phase)
  redis.call('HSET', job_key(id), 'phase', phase)
  return emit(id, 'phase', cjson.encode({ phase = phase }))
end

-- A tenant that comes back starts level with the clock: nobody saves up turns by being away.
local function enqueue(id)
  local fields = redis.call('HMGET', job_key(id), 'tenant', 'urgency', 'seq')
  local tenant = fields[1]
  redis.call('ZADD', key('wait:' .. tenant), tonumber(fields[2]) * 2 ^ 40 + tonumber(fields[3]), id)
  if not redis.call('ZSCORE', key('tenants'), tenant) then
    local clock = tonumber(redis.call('GET', key('clock')) or '0')
    local finish = tonumber(redis.call('HGET', key('finish'), tenant) or '0')
    redis.call('ZADD', key('tenants'), math.max(clock, finish), tenant)
  end
  redis.call('PUBLISH', key('work'), id)
end

local function leave_queue(id, tenant)
  redis.call('ZREM', key('delayed'), id)
  redis.call('ZREM', key('wait:' .. tenant), id)
  if redis.call('ZCARD', key('wait:' .. tenant)) == 0 then
    redis.call('ZREM', key('tenants'), tenant)
  end
end

-- How long a tenant's jobs wait for one another, in milliseconds: a mean over its latest claims, of the times between those
-- that left others waiting. Idle time is none of it.
local function note_pace(tenant, t, more)
  local last = redis.call('HGET', key('claimed'), tenant)
  if last then
    local mean = tonumber(redis.call('HGET', key('pace'), tenant) or (t - last))
    redis.call('HSET', key('pace'), tenant, mean + 0.2 * (t - last - mean))
  end
  if more then redis.call('HSET', key('claimed'), tenant, t) else redis.call('HDEL', key('claimed'), tenant) end
end

local function release(id)
  if redis.call('ZREM', key('leases'), id) == 1 then
    redis.call('HINCRBY', key('running'), redis.call('HGET', job_key(id), 'tenant'), -1)
  end
  redis.call('HDEL', job_key(id), 'token')
end

local function holds(id, token)
  return redis.call('HGET', job_key(id), 'token') == token and redis.call('ZSCORE', key('leases'), id) ~= false
end

-- The end of a job, whatever it is: once, for good.
local function finish(id, phase, code, message)
  local t = now()
  release(id)
  leave_queue(id, redis.call('HGET', job_key(id), 'tenant'))
  redis.call('HSET', job_key(id), 'completed_at', t)
  redis.call('HDEL', job_key(id), 'eta_s')
  local done = { phase = phase }
  if code ~= '' then
    redis.call('HSET', job_key(id), 'error_code', code, 'error_message', message)
    done['error'] = { code = code, message = message }
  end
  set_phase(id, phase)
  redis.call('HSET', job_key(id), 'done_event', emit(id, 'done', cjson.encode(done)))
  redis.call('ZADD', key('expiry'), t + tonumber(redis.call('HGET', job_key(id), 'ttl_ms')), id)
  redis.call('ZADD', key('ended'), t, id)
end
