-- ARGV: id, token, delay_ms, counts. The job goes back into the queue, at once or after a delay; `counts` 0 means that
-- this attempt does not count. One that is to be cancelled ends instead. Returns 1, 0 when the lease is lost.
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 0 end
if redis.call('HGET', job_key(id), 'cancelling') then
  finish(id, 'cancelled', 'cancelled', CANCELLED)
  return 1
end
release(id)
if ARGV[4] == '0' then redis.call('HINCRBY', job_key(id), 'attempts', -1) end
set_phase(id, 'queued')
local delay = tonumber(ARGV[3])
if delay > 0 then redis.call('ZADD', key('delayed'), now() + delay, id) else enqueue(id) end
return 1
