-- ARGV: digest, id. Releases an idempotency key that was reserved for a submission which failed.
local record = redis.call('HMGET', key('once:' .. ARGV[1]), 'job', 'fingerprint')
if record[1] == ARGV[2] and not record[2] then redis.call('DEL', key('once:' .. ARGV[1])) end
return 1
