-- ARGV: id, token, phase, error_code, error_message, language, whether a transcript is stored under the token (1 or 0).
-- Ends a job; one whose cancel was requested ends as cancelled. The transcript of one that is not completed is partial.
-- Returns 1, or 0 if the lease is lost.
local id, phase = ARGV[1], ARGV[3]
if not holds(id, ARGV[2]) then return 0 end
local cancelled = phase == 'cancelled' or redis.call('HGET', job_key(id), 'cancelling')
if ARGV[7] == '1' then
  redis.call('HSET', job_key(id), 'transcript', ARGV[2])
  if cancelled or phase ~= 'completed' then redis.call('HSET', job_key(id), 'partial', 1) end
end
if cancelled then
  finish(id, 'cancelled', 'cancelled', CANCELLED)
  return 1
end
if ARGV[6] ~= '' then redis.call('HSET', job_key(id), 'language', ARGV[6]) end
finish(id, phase, ARGV[4], ARGV[5])
return 1
