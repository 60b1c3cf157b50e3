-- ARGV: file, size. A file that was to be fetched is stored.
if redis.call('EXISTS', key('file:' .. ARGV[1])) == 1 then redis.call('HSET', key('file:' .. ARGV[1]), 'size', ARGV[2]) end
return 1
