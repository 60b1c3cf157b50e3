-- ARGV: ttl_ms (0 to keep the audio as long as the results), limit. Has sources and decoded audio of jobs deleted that ended
-- ttl_ms ago. Returns the number of ids.
local FILE_JOBS = 1000 -- a file of more jobs than this keeps its source
local t, ttl_ms = now(), tonumber(ARGV[1])
if ttl_ms == 0 then return redis.call('ZREMRANGEBYSCORE', key('audio'), '-inf', t) end

-- A shared source is needed until its last job ended ttl_ms ago.
local function is_needed(file)
  if redis.call('SCARD', key('file_jobs:' .. file)) > FILE_JOBS then return true end
  for _, id in ipairs(redis.call('SMEMBERS', key('file_jobs:' .. file))) do
    local tenant, completed_at = unpack(redis.call('HMGET', job_key(id), 'tenant', 'completed_at'))
    if tenant and (not completed_at or tonumber(completed_at) > t - ttl_ms) then return true end
  end
  return false
end

local ids = due_ids('audio', ttl_ms, tonumber(ARGV[2]))
for _, id in ipairs(ids) do
  redis.call('ZREM', key('audio'), id)
  local completed_at, purged_at, file = unpack(redis.call('HMGET', job_key(id), 'completed_at', 'purged_at', 'file'))
  if completed_at and not purged_at then
    redis.call('HSET', job_key(id), 'audio_deleted_at', t)
    remove_files('jobs/' .. id .. '/source', t)
    remove_files('jobs/' .. id .. '/pcm', t)
    if file and not is_needed(file) then
      redis.call('HSETNX', key('file:' .. file), 'source_deleted_at', t)
      remove_files('files/' .. file .. '/source', t)
    end
  end
end
return #ids
