-- ARGV: id, deleted (1 where it must be marked as such before), keep_ms. Marks an ended job as purged: its results, errors and
-- events go, its record stays for a while. Returns 1, 0 where it may not be, nothing where there is no such job; the id of
-- its file where no other job needs that any more.
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
return let_go(id, fields[7]) or 1
