-- ARGV: id, spec, webhook (0 or 1). Replaces the webhook of a job that has not ended.
-- Returns 1; 0 if the job has ended; nil if there is no such job.
local id = ARGV[1]
if redis.call('EXISTS', job_key(id)) == 0 then return false end
if redis.call('HEXISTS', job_key(id), 'completed_at') == 1 then return 0 end
redis.call('HSET', job_key(id), 'spec', ARGV[2], 'webhook', ARGV[3])
return 1
