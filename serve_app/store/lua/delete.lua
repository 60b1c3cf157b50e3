-- ARGV: id. Deletes an ended job and everything about it. Returns 1, or the id of its file if no other job needs that file;
-- 0 if the job has not ended; nil if there is no such job.
local id = ARGV[1]
local fields = redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'once', 'done_event', 'file')
if not fields[1] then return false end
if not fields[3] then return 0 end
shelve(id, nil)
local unused_file = release_file(id, fields[6])
redis.call('DEL', job_key(id), key('events:' .. id))
if fields[4] ~= '' then redis.call('DEL', key('once:' .. fields[4])) end
redis.call('ZREM', index_key(fields[1], fields[2]), id)
redis.call('ZREM', key('webhooks'), delivery(id, fields[5]))
redis.call('DEL', key('delivery:' .. delivery(id, fields[5])))
redis.call('ZREM', key('deliveries:' .. fields[1] .. '/' .. fields[2]), delivery(id, fields[5]))
redis.call('ZREM', key('expiry'), id)
redis.call('ZREM', key('ended'), id)
redis.call('ZREM', key('summaries'), id)
redis.call('PUBLISH', key('wake'), id)
return unused_file or 1
