-- ARGV: id. Marks an ended job as deleted: only listings that ask for deleted jobs show it.
-- Returns 1; 0 if it has not ended or is marked already; nil if there is no such job.
local id = ARGV[1]
local fields = redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'deleted_at', 'phase')
if not fields[1] then return false end
if not fields[3] or fields[4] then return 0 end
redis.call('HSET', job_key(id), 'deleted_at', now())
redis.call('ZREM', index_key(fields[1], fields[2]), id)
shelve(id, fields[5] .. ':deleted')
return 1
