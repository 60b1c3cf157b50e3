-- ARGV: once, id. Gives an idempotency key back that was kept for a job which will not be.
local held = redis.call('HMGET', key('once:' .. ARGV[1]), 'job', 'fingerprint')
if held[1] == ARGV[2] and not held[2] then redis.call('DEL', key('once:' .. ARGV[1])) end
return 1
