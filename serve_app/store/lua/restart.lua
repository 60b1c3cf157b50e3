-- ARGV: id, token. Drops what was committed of a running job, which then begins at its start.
-- Returns 1, or 0 if the lease is lost.
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 0 end
redis.call('DEL', key('events:' .. id))
local fields = redis.call('HKEYS', job_key(id))
for _, name in ipairs(fields) do
  if name:find('^channel:') or name:find('^until:') then redis.call('HDEL', job_key(id), name) end
end
redis.call('HDEL', job_key(id), 'warnings')
redis.call('HSET', job_key(id), 'next_window', 0, 'segments', 0, 'end_s', 0, 'audio_done_s', 0)
return 1
