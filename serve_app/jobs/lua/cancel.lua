-- ARGV: id. Returns the phase it found, or nothing where there is no such job. A queued job ends here; a running one is told.
local phase = redis.call('HGET', job_key(ARGV[1]), 'phase')
if not phase then return false end
if phase == 'completed' or phase == 'failed' or phase == 'cancelled' then return phase end
if redis.call('ZSCORE', key('leases'), ARGV[1]) then
  redis.call('HSET', job_key(ARGV[1]), 'cancelling', now())
  redis.call('PUBLISH', key('cancel'), ARGV[1])
else
  finish(ARGV[1], 'cancelled', 'cancelled', CANCELLED)
end
return phase
