-- ARGV: id, deleted (1 if the job must be marked as deleted before), keep_ms. Deletes results, error and events of an ended
-- job; its record stays for keep_ms. Returns 1, or the id of its file if no other job needs that file; 0 if refused; nil if
-- there is no such job.
local id = ARGV[1]
local fields = redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'deleted_at', 'purged_at', 'phase', 'file')
if not fields[1] then return false end
if not fields[3] or fields[5] or (ARGV[2] == '1' and not fields[4]) then return 0 end
local t = now()
redis.call('HSETNX', job_key(id), 'deleted_at', t)
redis.call('HSET', job_key(id), 'purged_at', t)
redis.call('HDEL', job_key(id), 'transcript', 'error_code', 'error_message', 'language')
redis.call('DEL', key('events:' .. id))
redis.call('ZREM', key('ended'), id)
redis.call('ZREM', key('summaries'), id)
redis.call('ZREM', index_key(fields[1], fields[2]), id)
redis.call('ZADD', key('expiry'), t + tonumber(ARGV[3]), id)
shelve(id, fields[6] .. ':purged')
redis.call('PUBLISH', key('wake'), id)
return release_file(id, fields[7]) or 1
