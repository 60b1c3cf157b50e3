-- ARGV: id, hold_ms. Deletes an ended job and everything about it; the sweeper deletes its files after hold_ms, if the caller
-- has not. Returns 1, or the id of its file if no other job needs that file; 0 if the job has not ended; nil if there is none.
local tenant, completed_at = unpack(redis.call('HMGET', job_key(ARGV[1]), 'tenant', 'completed_at'))
if not tenant then return false end
if not completed_at then return 0 end
return delete_job(ARGV[1], false, now() + tonumber(ARGV[2])) or 1
