-- ARGV: id, tenant/owner. Makes a delivery due now with a fresh count of tries.
-- Returns 1, or 0 if the owner has no such delivery or its job was deleted or retried.
local record, job = key('delivery:' .. ARGV[1]), string.match(ARGV[1], '^[^:]+')
if redis.call('HGET', record, 'owner') ~= ARGV[2] then return 0 end
local done_event = redis.call('HGET', job_key(job), 'done_event')
if not done_event or delivery(job, done_event) ~= ARGV[1] then return 0 end
redis.call('HSET', record, 'tries', 0, 'state', 'pending')
redis.call('ZADD', key('webhooks'), now(), ARGV[1])
return 1
