-- ARGV: id. Deletes an ended job and everything about it. Returns 1, or the id of its file if no other job needs that file;
-- 0 if the job has not ended; nil if there is no such job.
local id = ARGV[1]
local tenant, owner, completed_at, once, done_event, file, purged_at = unpack(
  redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'once', 'done_event', 'file', 'purged_at')
)
if not tenant then return false end
if not completed_at then return 0 end
shelve(id, nil)
if not purged_at then forget_kept(tenant) end
local unused_file = release_file(id, file)
redis.call('DEL', job_key(id), key('events:' .. id))
if once ~= '' then redis.call('DEL', key('once:' .. once)) end
redis.call('ZREM', index_key(tenant, owner), id)
redis.call('ZREM', key('webhooks'), delivery(id, done_event))
redis.call('DEL', key('delivery:' .. delivery(id, done_event)))
redis.call('ZREM', key('deliveries:' .. tenant .. '/' .. owner), delivery(id, done_event))
redis.call('ZREM', key('expiry'), id)
redis.call('ZREM', key('ended'), id)
redis.call('ZREM', key('summaries'), id)
redis.call('PUBLISH', key('wake'), id)
return unused_file or 1
