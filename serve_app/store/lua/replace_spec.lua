-- ARGV: id, token ('' where the job has ended), spec. Replaces what the job was made of. Returns 1, or 0 when the lease is
-- lost, or the job goes on.
local id, token = ARGV[1], ARGV[2]
if token == '' and not redis.call('HGET', job_key(id), 'completed_at') then return 0 end
if token ~= '' and not holds(id, token) then return 0 end
redis.call('HSET', job_key(id), 'spec', ARGV[3])
return 1
