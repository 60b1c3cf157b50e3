-- ARGV: id, token, delay_ms, counts, max_stalls, max_losses, model to go on with ('' for the same). The job goes back into
-- the queue, at once or after a delay. `counts` says what this attempt counts as: `attempt`, `stall` (it cost a process that
-- had this job alone), `loss` (it cost a worker that had others too) or `nothing`. One that is to be cancelled ends instead.
-- Returns 1, 0 when the lease is lost.
local id, counts = ARGV[1], ARGV[4]
if not holds(id, ARGV[2]) then return 0 end
if redis.call('HGET', job_key(id), 'cancelling') then
  finish(id, 'cancelled', 'cancelled', CANCELLED)
  return 1
end
if counts == 'stall' and lost_worker(id, 'stalls', tonumber(ARGV[5])) then return 1 end
if counts == 'loss' and lost_worker(id, 'losses', tonumber(ARGV[6])) then return 1 end
if ARGV[7] ~= '' then redis.call('HSET', job_key(id), 'model', ARGV[7]) end
release(id)
if counts ~= 'attempt' then redis.call('HINCRBY', job_key(id), 'attempts', -1) end
set_phase(id, 'queued')
local delay = tonumber(ARGV[3])
if delay > 0 then redis.call('ZADD', key('delayed'), now() + delay, id) else enqueue(id) end
return 1
