-- ARGV: id. Marks an ended job as deleted: no list shows it that does not ask for such. Returns 1, 0 where it has not ended
-- or is marked already, nothing where there is none.
local id = ARGV[1]
local fields = redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'deleted_at', 'phase')
if not fields[1] then return false end
if not fields[3] or fields[4] then return 0 end
redis.call('HSET', job_key(id), 'deleted_at', now())
redis.call('ZREM', index_key(fields[1], fields[2]), id)
shelve(id, fields[5] .. ':deleted')
return 1
