-- ARGV: once, id, ttl_ms. Keeps an idempotency key for a job to be, for a while: ask again to keep it longer. Returns 1, 0
-- where another request holds it; 2 where it stands for a job already.
local held = redis.call('HMGET', key('once:' .. ARGV[1]), 'job', 'fingerprint')
if held[2] then return 2 end
if held[1] and held[1] ~= ARGV[2] then return 0 end
redis.call('HSET', key('once:' .. ARGV[1]), 'job', ARGV[2])
redis.call('PEXPIRE', key('once:' .. ARGV[1]), ARGV[3])
return 1
