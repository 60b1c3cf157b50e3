-- ARGV: id, wait_ms. Puts a delivery off, if it is still to be made.
return redis.call('ZADD', key('webhooks'), 'XX', now() + tonumber(ARGV[2]), ARGV[1])
