-- ARGV: tenant. Returns the milliseconds of audio that were heard for it this month.
return tonumber(redis.call('HGET', key('used:' .. ARGV[1]), month(now())) or '0')
