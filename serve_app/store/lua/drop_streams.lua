-- ARGV: grace_ms, limit. Deletes the event streams of jobs that ended grace_ms ago and have not been retried since.
-- Returns the number of ids.
local ids = due_ids('ended', tonumber(ARGV[1]), tonumber(ARGV[2]))
for _, id in ipairs(ids) do
  redis.call('ZREM', key('ended'), id)
  local runs = redis.call('HEXISTS', job_key(id), 'tenant') == 1 and redis.call('HEXISTS', job_key(id), 'completed_at') == 0
  if not runs then redis.call('UNLINK', key('events:' .. id)) end
end
return #ids
