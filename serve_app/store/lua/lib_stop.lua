-- Ends of jobs.

-- Fields of a running or queued job that an ended one does not need.
local TRANSIENT = { 'eta_s', 'claimed_at', 'cap', 'yielded', 'worker', 'quota_ms' }

-- End a job. The only place that queues its webhook and its summary.
local function finish(id, phase, code, message)
  local t = now()
  local tenant = redis.call('HGET', job_key(id), 'tenant')
  release_lease(id)
  leave_queue(id, tenant)
  settle(id, tenant)
  redis.call('HSET', job_key(id), 'completed_at', t)
  redis.call('HDEL', job_key(id), unpack(TRANSIENT))
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
  local busy_ms, total_s, cancelling, ttl_ms, erasing, channels = unpack(redis.call('HMGET', job_key(id),
    'busy_ms', 'audio_total_s', 'cancelling', 'ttl_ms', 'erasing', 'audio_channels'))
  if phase == 'completed' and total_s and tonumber(total_s) > 0 then
    observe('real_time', math.floor(tonumber(busy_ms or '0') / tonumber(total_s)))
  end
  if phase == 'cancelled' then observe('cancel_ms', t - tonumber(cancelling or t)) end
  redis.call('ZADD', key('expiry'), erasing and t or t + tonumber(ttl_ms), id)
  -- The stream of a failed or cancelled job stays to its expiry: it is what a retry goes on from.
  if phase == 'completed' then
    redis.call('ZADD', key('ended'), t, id)
    for n = -1, tonumber(channels or '0') - 1 do
      local channel = n < 0 and '' or n
      redis.call('HDEL', job_key(id), 'channel:' .. channel, 'until:' .. channel)
    end
  end
  redis.call('ZADD', key('audio'), t, id)
  if is_private(id) then redis.call('ZADD', key('private'), t, id) end
end

-- Count a worker lost with the job in `field`. A job that reaches `limit` without progress is failed, as the likely cause.
local function lost_worker(id, field, limit)
  if redis.call('HINCRBY', job_key(id), field, 1) < limit then return false end
  finish(id, 'failed', 'internal', STALLED)
  return true
end
