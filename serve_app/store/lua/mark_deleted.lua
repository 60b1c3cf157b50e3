-- ARGV: id. Marks an ended job as deleted: only listings that ask for deleted jobs show it.
-- Returns 1; 0 if it has not ended or is marked already; nil if there is no such job.
local id = ARGV[1]
local tenant, owner, completed_at, deleted_at, phase = unpack(
  redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'deleted_at', 'phase')
)
if not tenant then return false end
if not completed_at or deleted_at then return 0 end
redis.call('HSET', job_key(id), 'deleted_at', now())
redis.call('ZREM', index_key(tenant, owner), id)
shelve(id, phase .. ':deleted')
return 1
