-- ARGV: list, member. Removes a member that was dealt with. Returns 1.
redis.call('ZREM', key(ARGV[1]), ARGV[2])
redis.call('HDEL', key('setbacks'), ARGV[1] .. ' ' .. ARGV[2])
return 1
