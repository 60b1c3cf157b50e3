-- ARGV: id, deleted (1 if the job must be marked as deleted before), keep_ms. Deletes results, error and events of an ended
-- job; its record stays for keep_ms. Returns 1, or the id of its file if no other job needs that file; 0 if refused; nil if
-- there is no such job.
local id = ARGV[1]
local tenant, owner, completed_at, deleted_at, purged_at, phase, file = unpack(
  redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'deleted_at', 'purged_at', 'phase', 'file')
)
if not tenant then return false end
if not completed_at or purged_at or (ARGV[2] == '1' and not deleted_at) then return 0 end
local t = now()
forget_kept(tenant)
redis.call('HSETNX', job_key(id), 'deleted_at', t)
redis.call('HSET', job_key(id), 'purged_at', t)
redis.call('HDEL', job_key(id), 'transcript', 'error_code', 'error_message', 'language')
redis.call('DEL', key('events:' .. id))
redis.call('ZREM', key('ended'), id)
redis.call('ZREM', key('summaries'), id)
redis.call('ZREM', index_key(tenant, owner), id)
redis.call('ZADD', key('expiry'), t + tonumber(ARGV[3]), id)
shelve(id, phase .. ':purged')
redis.call('PUBLISH', key('wake'), id)
return release_file(id, file) or 1
