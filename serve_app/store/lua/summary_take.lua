-- ARGV: limit, hold_ms. Returns ids of jobs whose summary is due and hides them for hold_ms (visibility timeout).
local t = now()
local ids = redis.call('ZRANGEBYSCORE', key('summaries'), '-inf', t, 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do redis.call('ZADD', key('summaries'), t + tonumber(ARGV[2]), id) end
return ids
