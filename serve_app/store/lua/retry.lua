-- ARGV: id. Requeues a failed job: from its checkpoint while its event stream exists, else from the start.
-- Returns 1; 0 if it has not failed, has no attempts left, is deleted or is private (its source is gone); nil if there is none.
local id = ARGV[1]
local phase, attempts, max_attempts, done_event, deleted_at = unpack(
  redis.call('HMGET', job_key(id), 'phase', 'attempts', 'max_attempts', 'done_event', 'deleted_at')
)
if not phase then return false end
if phase ~= 'failed' or deleted_at or tonumber(attempts) >= tonumber(max_attempts) or is_private(id) then return 0 end
redis.call('ZREM', key('webhooks'), delivery(id, done_event))
redis.call('ZREM', key('expiry'), id)
redis.call('ZREM', key('ended'), id)
redis.call('HDEL', job_key(id), 'completed_at', 'error_code', 'error_message', 'done_event', 'model', 'transcript',
  'partial')
redis.call('HSET', job_key(id), 'stalls', 0, 'losses', 0)
redis.call('XDEL', key('events:' .. id), done_event)
if redis.call('XLEN', key('events:' .. id)) == 0 then
  redis.call('HSET', job_key(id), 'next_window', 0, 'segments', 0, 'end_s', 0, 'audio_done_s', 0)
end
set_phase(id, 'queued')
enqueue(id)
return 1
