-- ARGV: id, tenant/owner. Makes a delivery due now, with all its tries before it. Returns 1, or 0 where the owner has none such, or
-- its job is gone or has gone on since.
local place, job = key('delivery:' .. ARGV[1]), string.match(ARGV[1], '^[^:]+')
if redis.call('HGET', place, 'owner') ~= ARGV[2] then return 0 end
local done = redis.call('HGET', job_key(job), 'done_event')
if not done or delivery(job, done) ~= ARGV[1] then return 0 end
redis.call('HSET', place, 'tries', 0, 'state', 'pending')
redis.call('ZADD', key('webhooks'), now(), ARGV[1])
return 1
