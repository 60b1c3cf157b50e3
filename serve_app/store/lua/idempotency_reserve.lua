-- ARGV: digest, id, ttl_ms. Reserves an idempotency key for a submission in progress, or renews the reservation.
-- Returns 1; 0 if another request holds the key; 2 if a job was submitted under it.
local record = redis.call('HMGET', key('once:' .. ARGV[1]), 'job', 'fingerprint')
if record[2] then return 2 end
if record[1] and record[1] ~= ARGV[2] then return 0 end
redis.call('HSET', key('once:' .. ARGV[1]), 'job', ARGV[2])
redis.call('PEXPIRE', key('once:' .. ARGV[1]), ARGV[3])
return 1
