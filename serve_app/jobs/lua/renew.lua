-- ARGV: id, token, lease_ms. Returns 1 while the lease is ours, 2 if the job is also to be cancelled, 0 when it is lost.
if not holds(ARGV[1], ARGV[2]) then return 0 end
redis.call('ZADD', key('leases'), now() + tonumber(ARGV[3]), ARGV[1])
return redis.call('HGET', job_key(ARGV[1]), 'cancelling') and 2 or 1
