-- ARGV: id, phases that may be retried (`failed` or `failed,cancelled`), queue_limit, quota_ms a month. Requeues an ended
-- job: from its checkpoint while its event stream exists, else from the start. Returns `queued`; `full` (the queue); `spent`
-- (the quota); `refused` if it ended otherwise, has no attempts left, is deleted or is private (its source is gone); nil if
-- there is none.
local id, limit, quota_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local phase, tenant, attempts, max_attempts, done_event, deleted_at, total_s, declared_s, counted_ms = unpack(
  redis.call('HMGET', job_key(id), 'phase', 'tenant', 'attempts', 'max_attempts', 'done_event', 'deleted_at',
    'audio_total_s', 'audio_declared_s', 'counted_ms')
)
if not phase then return false end
if not FINAL[phase] or not string.find(ARGV[2], phase, 1, true) or deleted_at then return 'refused' end
if tonumber(attempts) >= tonumber(max_attempts) or is_private(id) then return 'refused' end
if limit > 0 and redis.call('ZCARD', key('wait:' .. tenant)) >= limit then return 'full' end
if quota_ms > 0 then
  local seconds = total_s or declared_s
  local rest_ms = seconds and math.max(uncharged_ms(seconds, counted_ms), 1)
  if not reserve(id, tenant, quota_ms, rest_ms and math.min(rest_ms, math.max(left_ms(tenant, quota_ms), 1))) then
    return 'spent'
  end
end

-- Forget the checkpoint: the text before it is gone.
local function start_over()
  local gone = { 'first_at', 'language', 'warnings', 'warning_count', 'busy_ms' }
  for _, name in ipairs(redis.call('HKEYS', job_key(id))) do
    if string.find(name, '^channel:') or string.find(name, '^until:') then gone[#gone + 1] = name end
  end
  redis.call('HDEL', job_key(id), unpack(gone))
  redis.call('HSET', job_key(id), 'next_window', 0, 'segments', 0, 'end_s', 0, 'audio_done_s', 0)
end

retract_delivery(id)
for _, name in ipairs({ 'expiry', 'ended', 'private', 'audio' }) do redis.call('ZREM', key(name), id) end
redis.call('XDEL', key('events:' .. id), done_event)
if redis.call('XLEN', key('events:' .. id)) == 0 then start_over() end
redis.call('HDEL', job_key(id), 'completed_at', 'cancelling', 'error_code', 'error_message', 'done_event', 'model',
  'transcript', 'partial')
redis.call('HSET', job_key(id), 'stalls', 0, 'losses', 0, 'retried_at', now())
set_phase(id, 'queued')
enqueue(id)
return 'queued'
