-- ARGV: role, name. Gives up the leadership of a role. Returns 1.
if redis.call('GET', key('leader:' .. ARGV[1])) == ARGV[2] then redis.call('DEL', key('leader:' .. ARGV[1])) end
return 1
