-- ARGV: id. Removes every trace of a finished job. Returns 1, 0 where it is not finished, nothing where there is none.
local id = ARGV[1]
local fields = redis.call('HMGET', job_key(id), 'tenant', 'completed_at')
if not fields[1] then return false end
if not fields[2] then return 0 end
redis.call('DEL', job_key(id), key('events:' .. id))
redis.call('ZREM', key('index:' .. fields[1]), id)
redis.call('ZREM', key('expiry'), id)
redis.call('ZREM', key('ended'), id)
redis.call('PUBLISH', key('wake'), id)
return 1
