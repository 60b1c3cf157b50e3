-- ARGV: tenant, tokens a minute. Takes a token from the tenant's bucket, which holds one minute's tokens and refills evenly.
-- Returns 0, or the milliseconds until there is a token.
local bucket, size = key('bucket:' .. ARGV[1]), tonumber(ARGV[2])
local t, rate = now(), size / 60000
local stored, filled_at = unpack(redis.call('HMGET', bucket, 'level', 'at'))
local level = math.min(size, tonumber(stored or size) + math.max(t - tonumber(filled_at or t), 0) * rate)
local wait = 0
if level >= 1 then level = level - 1 else wait = math.ceil((1 - level) / rate) end
redis.call('HSET', bucket, 'level', tostring(level), 'at', t)
redis.call('PEXPIRE', bucket, 60000)
return wait
