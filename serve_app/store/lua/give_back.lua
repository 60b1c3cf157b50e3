-- ARGV: id, token, delay_ms, cost, max_stalls, max_losses, model to continue with ('' for the same). Requeues a job.
-- `cost`: `attempt`, `stall` (a worker died that had only this job), `loss` (a worker died that had others too) or `nothing`.
-- A job whose cancel was requested ends instead. Returns 1, or 0 if the lease is lost.
local id, cost = ARGV[1], ARGV[4]
if not holds(id, ARGV[2]) then return 0 end
if redis.call('HGET', job_key(id), 'cancelling') then
  finish(id, 'cancelled', 'cancelled', CANCELLED)
  return 1
end
if cost == 'stall' and lost_worker(id, 'stalls', tonumber(ARGV[5])) then return 1 end
if cost == 'loss' and lost_worker(id, 'losses', tonumber(ARGV[6])) then return 1 end
if ARGV[7] ~= '' then redis.call('HSET', job_key(id), 'model', ARGV[7]) end
release_lease(id)
if cost ~= 'attempt' then redis.call('HINCRBY', job_key(id), 'attempts', -1) end
set_phase(id, 'queued')
local delay = tonumber(ARGV[3])
if delay > 0 then
  redis.call('ZADD', key('delayed'), now() + delay, id)
else
  enqueue(id)
  hand_over(redis.call('HGET', job_key(id), 'yielded'), ARGV[2])
end
return 1
