-- ARGV: id, token, phase, error_code, error_message, language, partial (1 if the transcript of a job that did not complete
-- was written). Ends a job; one whose cancel was requested ends as cancelled. Returns 1, or 0 if the lease is lost.
local id, token, phase = ARGV[1], ARGV[2], ARGV[3]
if not holds(id, token) then
  -- Sent again: written again too, because the caller may wait for replicas.
  if redis.call('HGET', job_key(id), 'transcript') ~= token then return 0 end
  redis.call('HSET', job_key(id), 'transcript', token)
  return 1
end
if redis.call('HGET', job_key(id), 'cancelling') then phase = 'cancelled' end
if ARGV[6] ~= '' then redis.call('HSET', job_key(id), 'language', ARGV[6]) end
if phase == 'completed' then redis.call('HSET', job_key(id), 'transcript', token) end
if phase ~= 'completed' and ARGV[7] == '1' then redis.call('HSET', job_key(id), 'transcript', token, 'partial', 1) end
if phase == 'cancelled' then
  finish(id, phase, 'cancelled', CANCELLED)
else
  finish(id, phase, ARGV[4], ARGV[5])
end
return 1
