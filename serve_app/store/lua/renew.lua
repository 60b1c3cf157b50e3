-- ARGV: id, token, lease_ms. Extends a lease. Returns `held`, `cancelling` (held, and a cancel was requested) or `lost`.
if not holds(ARGV[1], ARGV[2]) then return 'lost' end
redis.call('ZADD', key('leases'), now() + tonumber(ARGV[3]), ARGV[1])
return redis.call('HGET', job_key(ARGV[1]), 'cancelling') and 'cancelling' or 'held'
