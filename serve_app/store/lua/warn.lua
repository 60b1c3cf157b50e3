-- ARGV: id, token, warning. Returns 1, or 0 if the lease is lost.
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 0 end
local warnings = redis.call('HGET', job_key(id), 'warnings') or ''
if not warnings:find(ARGV[3], 1, true) then
  redis.call('HSET', job_key(id), 'warnings', warnings == '' and ARGV[3] or warnings .. ',' .. ARGV[3])
end
return 1
