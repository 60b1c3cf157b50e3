-- ARGV: id, token ('' for a job that has ended), spec. Replaces the spec of a job.
-- Returns 1, or 0 if the lease is lost or, without a token, the job has not ended.
local id, token = ARGV[1], ARGV[2]
if token == '' and not redis.call('HGET', job_key(id), 'completed_at') then return 0 end
if token ~= '' and not holds(id, token) then return 0 end
redis.call('HSET', job_key(id), 'spec', ARGV[3])
return 1
