-- ARGV: file, size. Records the size of a file that was fetched.
if redis.call('EXISTS', key('file:' .. ARGV[1])) == 1 then redis.call('HSET', key('file:' .. ARGV[1]), 'size', ARGV[2]) end
return 1
