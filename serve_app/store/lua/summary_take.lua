-- ARGV: limit, hold_ms. Returns the ids of jobs whose summary is due, and puts each off by hold_ms: whoever took it may die.
local t = now()
local ids = redis.call('ZRANGEBYSCORE', key('summaries'), '-inf', t, 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do redis.call('ZADD', key('summaries'), t + tonumber(ARGV[2]), id) end
return ids
