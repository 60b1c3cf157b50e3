-- ARGV: tenant. Returns milliseconds of audio: transcribed for the tenant this month, and reserved by its jobs under way.
local used = redis.call('HGET', key('used:' .. ARGV[1]), month(now()))
return { tonumber(used or '0'), tonumber(redis.call('HGET', key('held'), ARGV[1]) or '0') }
