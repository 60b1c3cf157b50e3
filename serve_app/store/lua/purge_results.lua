-- ARGV: id, deleted (1 if the job must be marked as deleted before), keep_ms, hold_ms. Deletes results, error and events of an
-- ended job; its record stays for keep_ms, and the sweeper deletes its files after hold_ms, if the caller has not.
-- Returns 1, or the id of its file if no other job needs that file; 0 if refused; nil if there is no such job.
local tenant, completed_at, deleted_at, purged_at = unpack(
  redis.call('HMGET', job_key(ARGV[1]), 'tenant', 'completed_at', 'deleted_at', 'purged_at')
)
if not tenant then return false end
if not completed_at or purged_at or (ARGV[2] == '1' and not deleted_at) then return 0 end
return purge_job(ARGV[1], tonumber(ARGV[3]), now() + tonumber(ARGV[4])) or 1
