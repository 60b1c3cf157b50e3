-- ARGV: list, member, grace_ms, base_ms, longest_ms. Makes a member that is due now due again later: after base_ms, and after
-- twice as long at each further time. Returns the delay in milliseconds; 0 if it is not due any more.
local list, member, grace_ms = key(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local at = redis.call('ZSCORE', list, member)
if not at or tonumber(at) > now() - grace_ms then return 0 end
local failures = redis.call('HINCRBY', key('setbacks'), ARGV[1] .. ' ' .. member, 1)
local delay_ms = math.min(tonumber(ARGV[4]) * 2 ^ math.min(failures - 1, 20), tonumber(ARGV[5]))
redis.call('ZADD', list, now() - grace_ms + delay_ms, member)
return delay_ms
