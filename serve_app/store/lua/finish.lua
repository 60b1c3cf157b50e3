-- ARGV: id, token, phase, error_code, error_message, language. Ends a job; one whose cancel was requested ends as cancelled.
-- Returns 1, or 0 if the lease is lost.
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 0 end
if ARGV[3] == 'cancelled' or redis.call('HGET', job_key(id), 'cancelling') then
  finish(id, 'cancelled', 'cancelled', CANCELLED)
  return 1
end
if ARGV[6] ~= '' then redis.call('HSET', job_key(id), 'language', ARGV[6]) end
if ARGV[3] == 'completed' then redis.call('HSET', job_key(id), 'transcript', ARGV[2]) end
finish(id, ARGV[3], ARGV[4], ARGV[5])
return 1
