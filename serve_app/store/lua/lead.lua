-- ARGV: role, name, hold_ms. Takes or renews the leadership of a role. Returns 1, or 0 while another holds it.
local leader = key('leader:' .. ARGV[1])
local holder = redis.call('GET', leader)
if holder and holder ~= ARGV[2] then return 0 end
redis.call('SET', leader, ARGV[2], 'PX', ARGV[3])
return 1
