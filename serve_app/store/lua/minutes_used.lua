-- ARGV: tenant. Returns milliseconds of audio transcribed for the tenant this month.
return tonumber(redis.call('HGET', key('used:' .. ARGV[1]), month(now())) or '0')
