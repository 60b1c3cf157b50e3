-- Prepended to every script. KEYS[1] is the prefix of all keys, whose hash tag keeps them in one cluster slot.
-- Times are the server's, in milliseconds.
local prefix = KEYS[1]
local CANCELLED = 'The job was cancelled.'
local STALLED = 'The workers that took this job died each time, and it was given up: check the file.'

local function key(name) return prefix .. name end
local function job_key(id) return prefix .. 'job:' .. id end
local function index_key(tenant, owner) return prefix .. 'index:' .. tenant .. '/' .. owner end

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Whether `emit` publishes to `wake`. Off while a new job is written, which nobody can follow yet.
local wake_readers = true

-- Month of a time as YYYY-MM (days to date: H. Hinnant, chrono-compatible low-level date algorithms).
local function month(t)
  local days = math.floor(t / 86400000) + 719468
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  local number = from_march < 10 and from_march + 3 or from_march - 9
  return string.format('%04d-%02d', year + era * 400 + (number <= 2 and 1 or 0), number)
end

local function emit(id, kind, data)
  local event = redis.call('XADD', key('events:' .. id), '*', 'kind', kind, 'data', data)
  if wake_readers then redis.call('PUBLISH', key('wake'), id) end
  return event
end

-- Counters and histograms of all replicas: `name` is a count, `name:sum` and `name:le:BOUND` make it a histogram.
local BOUNDS = { 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000 }

local function count(name) redis.call('HINCRBY', key('metrics'), name, 1) end

local function observe(name, ms)
  count(name)
  redis.call('HINCRBY', key('metrics'), name .. ':sum', ms)
  for _, bound in ipairs(BOUNDS) do
    if ms <= bound then
      count(name .. ':le:' .. bound)
      return
    end
  end
end

-- A status index (`shelf` in keys and fields) holds the jobs of one owner, dialect and status: STATE, STATE:deleted or
-- STATE:purged. It is sorted by creation stamp: milliseconds times STAMPS, plus a number that orders jobs of one millisecond.
local STAMPS = 1024
local SHELVES = { downloading = 'running', transcoding = 'running', transcribing = 'running' }

-- Each status index exists twice: sorted by creation (`order` is `made`) and by end (`ended`). In the latter, jobs that have
-- not ended come first, with negative stamps.
local function shelf_key(order, owner, shelf) return key(order .. ':' .. owner .. ':' .. shelf) end

local UNENDED = 2 ^ 52

-- Stamps are unique and strictly increasing.
local function next_stamp()
  local stamp = math.max(now() * STAMPS, tonumber(redis.call('GET', key('stamp')) or '0') + 1)
  redis.call('SET', key('stamp'), string.format('%.0f', stamp))
  return string.format('%.0f', stamp)
end

local function stamp_of(t, seq) return string.format('%.0f', t * STAMPS + seq % STAMPS) end

-- Move a job to another status index (nil: to none). Jobs of a shared file are also indexed by that file.
local function shelve(id, shelf)
  local tenant, owner, dialect, created_stamp, current, seq, completed_at, file, erasing = unpack(redis.call('HMGET',
    job_key(id), 'tenant', 'owner', 'dialect', 'stamp', 'shelf', 'seq', 'completed_at', 'file', 'erasing'))
  if erasing then shelf = nil end  -- deleted as soon as it ends, and hidden until then
  if not created_stamp or current == shelf then return end
  local ended_stamp = string.format('%.0f', tonumber(seq) - UNENDED)
  if completed_at then ended_stamp = stamp_of(tonumber(completed_at), tonumber(seq)) end
  local jobs_of = tenant .. '/' .. owner .. '/' .. dialect
  for _, index in ipairs(file and { jobs_of, jobs_of .. '@' .. file } or { jobs_of }) do
    for order, stamp in pairs({ made = created_stamp, ended = ended_stamp }) do
      if current then redis.call('ZREM', shelf_key(order, index, current), id) end
      if shelf then redis.call('ZADD', shelf_key(order, index, shelf), stamp, id) end
    end
  end
  if shelf then redis.call('HSET', job_key(id), 'shelf', shelf) else redis.call('HDEL', job_key(id), 'shelf') end
end

local function set_phase(id, phase)
  local t = now()
  local previous, since = unpack(redis.call('HMGET', job_key(id), 'phase', 'phase_at'))
  if since then observe('phase_ms:' .. previous, t - tonumber(since)) end
  redis.call('HSET', job_key(id), 'phase', phase, 'phase_at', t)
  shelve(id, SHELVES[phase] or phase)
  return emit(id, 'phase', cjson.encode({ phase = phase }))
end

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
  local wait_ms = expected_wait_ms(tenant, position)
  emit(id, 'progress', cjson.encode({
    audio_done_s = tonumber(done_s),
    audio_total_s = tonumber(total_s or nil) or cjson.null,
    windows_done = tonumber(next_window),
    queue_position = position,
    eta_s = wait_ms and wait_ms / 1000 or cjson.null,
  }))
end

-- Emit new positions after a job left a tenant's queue: for the first ten jobs, then for every tenth of the first hundred, and
-- so on, so that a claim stays cheap in a long queue.
local function emit_positions(tenant)
  local waiting, position, step = redis.call('ZCARD', key('wait:' .. tenant)), 0, 1
  while position < waiting do
    emit_position(redis.call('ZRANGE', key('wait:' .. tenant), position, position)[1], tenant, position)
    position = position + step
    if position == step * 10 then step = step * 10 end
  end
end

-- A tenant that was idle starts at the current virtual time: no credit for idling.
local function enqueue(id)
  local tenant, urgency, seq = unpack(redis.call('HMGET', job_key(id), 'tenant', 'urgency', 'seq'))
  redis.call('ZADD', key('wait:' .. tenant), tonumber(urgency) * 2 ^ 40 + tonumber(seq), id)
  if not redis.call('ZSCORE', key('tenants'), tenant) then
    local clock = tonumber(redis.call('GET', key('clock')) or '0')
    local finish = tonumber(redis.call('HGET', key('finish'), tenant) or '0')
    redis.call('ZADD', key('tenants'), math.max(clock, finish), tenant)
  end
  emit_position(id, tenant, redis.call('ZRANK', key('wait:' .. tenant), id))
  redis.call('PUBLISH', key('work'), id)
end

local function leave_queue(id, tenant)
  redis.call('ZREM', key('delayed'), id)
  if redis.call('ZREM', key('wait:' .. tenant), id) == 1 then emit_positions(tenant) end
  if redis.call('ZCARD', key('wait:' .. tenant)) == 0 then
    redis.call('ZREM', key('tenants'), tenant)
  end
end

-- Drop a job's reference to its file. Returns the file's id if that was the last one; the record stays, marked, for a while.
local FILE_RECORD_MS = 2592000000
local function release_file(id, file)
  if not file or redis.call('SREM', key('file_jobs:' .. file), id) == 0 then return nil end
  if redis.call('SCARD', key('file_jobs:' .. file)) > 0 then return nil end
  redis.call('HSETNX', key('file:' .. file), 'deleted_at', now())
  redis.call('PEXPIRE', key('file:' .. file), FILE_RECORD_MS)
  return file
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
  if redis.call('ZREM', key('leases'), id) == 1 then
    redis.call('HINCRBY', key('running'), redis.call('HGET', job_key(id), 'tenant'), -1)
  end
  redis.call('HDEL', job_key(id), 'token')
end

local function holds(id, token)
  return redis.call('HGET', job_key(id), 'token') == token and redis.call('ZSCORE', key('leases'), id) ~= false
end

-- Id of a webhook delivery. A retried job ends again, with another event.
local function delivery(id, done_event) return id .. ':' .. done_event end

-- Add a member to a list in which tenants take turns, see lib_turns.lua.
local function queue_in_turn(list, tenant, member, due)
  redis.call('ZADD', key(list .. ':' .. tenant), due, member)
  redis.call('ZADD', key(list), 'LT', due, tenant)
end

-- Add a job's transcribed audio to its tenant's month, without what was charged at an earlier end.
local function charge_usage(id, tenant, t)
  local done_s, counted_ms = unpack(redis.call('HMGET', job_key(id), 'audio_done_s', 'counted_ms'))
  local done_ms = math.floor(tonumber(done_s) * 1000)
  local uncharged_ms = done_ms - tonumber(counted_ms or '0')
  if uncharged_ms > 0 then
    redis.call('HINCRBY', key('used:' .. tenant), month(t), uncharged_ms)
    redis.call('HSET', job_key(id), 'counted_ms', done_ms)
  end
end

local function is_private(id) return redis.call('HGET', job_key(id), 'private') == '1' end

-- End a job. The only place that queues its webhook and its summary.
local function finish(id, phase, code, message)
  local t = now()
  local tenant = redis.call('HGET', job_key(id), 'tenant')
  release_lease(id)
  leave_queue(id, tenant)
  charge_usage(id, tenant, t)
  redis.call('HSET', job_key(id), 'completed_at', t)
  redis.call('HDEL', job_key(id), 'eta_s')
  local done = { phase = phase }
  if code ~= '' then
    redis.call('HSET', job_key(id), 'error_code', code, 'error_message', message)
    done['error'] = { code = code, message = message }
  end
  set_phase(id, phase)
  local event = emit(id, 'done', cjson.encode(done))
  redis.call('HSET', job_key(id), 'done_event', event)
  if phase == 'completed' and redis.call('HEXISTS', job_key(id), 'summary') == 1 then
    redis.call('HSET', job_key(id), 'summary_state', 'pending')
    queue_in_turn('summaries', tenant, id, t)
  end
  if redis.call('HGET', job_key(id), 'webhook') == '1' then queue_in_turn('webhooks', tenant, delivery(id, event), t) end
  count('jobs_' .. phase)
  local started_at, total_s, cancelling, ttl_ms, erasing = unpack(redis.call('HMGET', job_key(id),
    'started_at', 'audio_total_s', 'cancelling', 'ttl_ms', 'erasing'))
  if phase == 'completed' and total_s and tonumber(total_s) > 0 then
    observe('real_time', math.floor((t - tonumber(started_at)) / tonumber(total_s)))
  end
  if phase == 'cancelled' then observe('cancel_ms', t - tonumber(cancelling or t)) end
  redis.call('ZADD', key('expiry'), erasing and t or t + tonumber(ttl_ms), id)
  redis.call('ZADD', key('ended'), t, id)
  redis.call('ZADD', key('audio'), t, id)
  if is_private(id) then redis.call('ZADD', key('private'), t, id) end
end

-- Count a worker lost with the job in `field`. A job that reaches `limit` without progress is failed, as the likely cause.
local function lost_worker(id, field, limit)
  if redis.call('HINCRBY', job_key(id), field, 1) < limit then return false end
  finish(id, 'failed', 'internal', STALLED)
  return true
end
