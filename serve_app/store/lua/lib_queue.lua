-- Queues of tenants: order, places, leases.

local FREE_MS = 3000  -- a Runner with a free place claims at least this often

local URGENT = 2 ^ 40  -- scores of interactive jobs in a queue are below it

-- Expected wait of a queued job in milliseconds, rounded to a tenth of a second; nil if the queue's pace is not known yet.
local function expected_wait_ms(tenant, position)
  local pace = redis.call('HGET', key('pace'), tenant)
  return pace and math.floor((position + 1) * tonumber(pace) / 100 + 0.5) * 100
end

-- Progress event of a queued job: its position and expected wait. The same fields as Progress in models/event.py.
local function emit_position(id, tenant, position)
  local done_s, total_s, next_window = unpack(
    redis.call('HMGET', job_key(id), 'audio_done_s', 'audio_total_s', 'next_window')
  )
  if not done_s then return end
  local wait_ms = expected_wait_ms(tenant, position)
  emit(id, 'progress', string.format(
    '{"audio_done_s":%s,"audio_total_s":%s,"windows_done":%s,"queue_position":%d,"eta_s":%s}',
    done_s, total_s or 'null', next_window, position, wait_ms and string.format('%.1f', wait_ms / 1000) or 'null'
  ))
end

-- Emit the positions of a tenant's next ten jobs, after one left the queue; others learn theirs by a GET. Only of those that
-- are further ahead than the last event said: a job that others overtake would get an event for each of them.
local FIRST = 10
local function emit_positions(tenant)
  local ids, known = redis.call('ZRANGE', key('wait:' .. tenant), 0, FIRST - 1), key('positions:' .. tenant)
  if #ids == 0 then return end
  local last, moved = redis.call('HMGET', known, unpack(ids)), {}
  for i, id in ipairs(ids) do
    if not last[i] or tonumber(last[i]) >= i then
      moved[#moved + 1], moved[#moved + 2] = id, i - 1
      emit_position(id, tenant, i - 1)
    end
  end
  if #moved > 0 then redis.call('HSET', known, unpack(moved)) end
end

local function close_queue(tenant)
  if redis.call('EXISTS', key('wait:' .. tenant)) == 1 then return false end
  redis.call('ZREM', key('tenants'), tenant)
  redis.call('DEL', key('positions:' .. tenant))
  return true
end

-- Remove a job from its tenant's queue. Returns its position, nil if it was not there.
local function unqueue(id, tenant)
  local position = redis.call('ZRANK', key('wait:' .. tenant), id)
  if not position then return nil end
  redis.call('ZREM', key('wait:' .. tenant), id)
  redis.call('HDEL', key('positions:' .. tenant), id)
  return position
end

-- Wake a Runner that has a free place, another one each time; all of them if none is known.
local function wake_runner()
  local worker, at = unpack(redis.call('ZREVRANGE', key('idle'), 0, 0, 'WITHSCORES'))
  local fresh = worker and tonumber(at) >= now() - FREE_MS
  if fresh then redis.call('ZADD', key('idle'), math.min(tonumber(at), now() - FREE_MS / 2), worker) end
  redis.call('PUBLISH', key('work'), fresh and worker or '')
end

-- Virtual time at which a tenant's next job starts. One that was idle starts at the current time: no credit for idling.
local function start_tag(tenant)
  local tag = redis.call('ZSCORE', key('tenants'), tenant)
  if tag then return tonumber(tag), true end
  local clock = tonumber(redis.call('GET', key('clock')) or '0')
  return math.max(clock, tonumber(redis.call('HGET', key('finish'), tenant) or '0')), false
end

local function running_jobs(tenant) return tonumber(redis.call('HGET', key('running'), tenant) or '0') end

local function weight_of(tenant) return tonumber(redis.call('HGET', key('weights'), tenant) or '1') end

-- Returns whether there is such a job.
local function enqueue(id)
  local tenant, urgency, seq = unpack(redis.call('HMGET', job_key(id), 'tenant', 'urgency', 'seq'))
  if not tenant then return false end
  redis.call('ZADD', key('wait:' .. tenant), tonumber(urgency) * URGENT + tonumber(seq), id)
  local tag, waiting = start_tag(tenant)
  if not waiting then redis.call('ZADD', key('tenants'), tag, tenant) end
  local position = redis.call('ZRANK', key('wait:' .. tenant), id)
  if position < FIRST then redis.call('HSET', key('positions:' .. tenant), id, position) end
  emit_position(id, tenant, position)
  wake_runner()
  return true
end

local function leave_queue(id, tenant)
  redis.call('ZREM', key('delayed'), id)
  local position = unqueue(id, tenant)
  if position and not close_queue(tenant) and position < FIRST then emit_positions(tenant) end
end

-- Update the pace of a tenant's queue: moving average of milliseconds between two claims while jobs are waiting.
local function note_pace(tenant, t, more)
  local last = redis.call('HGET', key('claimed'), tenant)
  if last then
    local mean = tonumber(redis.call('HGET', key('pace'), tenant) or (t - last))
    redis.call('HSET', key('pace'), tenant, mean + 0.2 * (t - last - mean))
  end
  if more then redis.call('HSET', key('claimed'), tenant, t) else redis.call('HDEL', key('claimed'), tenant) end
end

local function release_lease(id)
  if redis.call('ZREM', key('leases'), id) == 0 then return end
  local tenant, worker, claimed_at = unpack(redis.call('HMGET', job_key(id), 'tenant', 'worker', 'claimed_at'))
  decrement('running', tenant)
  decrement('worker_jobs', worker)
  redis.call('HINCRBY', job_key(id), 'busy_ms', now() - tonumber(claimed_at or now()))
  redis.call('HDEL', job_key(id), 'token')
end

-- Remove what is left of a job whose hash is gone (evicted, or deleted by hand). `tenant`: where it is known.
local DUE = { 'delayed', 'expiry', 'ended', 'private', 'audio' }
local function unlink_ghost(id, tenant)
  for _, name in ipairs(DUE) do redis.call('ZREM', key(name), id) end
  redis.call('DEL', key('events:' .. id))
  for _, holder in ipairs(tenant and { tenant } or redis.call('HKEYS', key('held'))) do
    if redis.call('HEXISTS', key('held:' .. holder), id) == 1 then hold(id, holder, 0) end
  end
  if tenant and unqueue(id, tenant) then
    forget_kept(tenant)
    close_queue(tenant)
  end
  if redis.call('ZREM', key('leases'), id) == 0 then return end
  -- Nobody knows whose place is free now: count again.
  redis.call('DEL', key('running'), key('worker_jobs'))
  for _, other in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
    local of_tenant, worker = unpack(redis.call('HMGET', job_key(other), 'tenant', 'worker'))
    if of_tenant then
      redis.call('HINCRBY', key('running'), of_tenant, 1)
      redis.call('HINCRBY', key('worker_jobs'), worker, 1)
    end
  end
end
