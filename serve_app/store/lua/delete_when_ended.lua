-- ARGV: id. Hides a job, drops its webhook, frees its idempotency key and lets it expire as soon as it ends.
-- Returns 1; 0 if the job has ended; nil if there is no such job.
local id = ARGV[1]
local tenant, owner, completed_at, once = unpack(redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'once'))
if not tenant then return false end
if completed_at then return 0 end
redis.call('HSET', job_key(id), 'erasing', 1, 'deleted_at', now(), 'webhook', 0, 'once', '')
if once ~= '' then redis.call('DEL', key('once:' .. once)) end
redis.call('ZREM', index_key(tenant, owner), id)
shelve(id, nil)
return 1
