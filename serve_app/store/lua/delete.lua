-- ARGV: id. Removes every trace of a finished job. Returns 1, 0 where it is not finished, nothing where there is none; the id
-- of its file where no other job needs that any more.
local id = ARGV[1]
local fields = redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'once', 'done_event', 'file')
if not fields[1] then return false end
if not fields[3] then return 0 end
shelve(id, nil)
local unused = let_go(id, fields[6])
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
return unused or 1
