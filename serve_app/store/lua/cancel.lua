-- ARGV: id. Cancels a queued job, or notifies the Runner of a running one.
-- Returns the phase that the job was in; nil if there is no such job.
local phase = redis.call('HGET', job_key(ARGV[1]), 'phase')
if not phase then return false end
if redis.call('HEXISTS', job_key(ARGV[1]), 'completed_at') == 1 then return phase end
if redis.call('ZSCORE', key('leases'), ARGV[1]) then
  redis.call('HSET', job_key(ARGV[1]), 'cancelling', now())
  redis.call('PUBLISH', key('cancel'), ARGV[1])
else
  finish(ARGV[1], 'cancelled', 'cancelled', CANCELLED)
end
return phase
