-- ARGV: id, wait_ms. Postpones a delivery that is still to be made.
return redis.call('ZADD', key('webhooks'), 'XX', now() + tonumber(ARGV[2]), ARGV[1])
