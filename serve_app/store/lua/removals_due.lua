-- ARGV: limit. Returns prefixes that are to be deleted from the storage now. Audio of a job that runs again is kept.
local prefixes = {}
for _, prefix in ipairs(due_ids('removals', 0, tonumber(ARGV[1]))) do
  local id = string.match(prefix, '^jobs/([^/]+)/')
  if id and redis.call('HEXISTS', job_key(id), 'tenant') == 1 and redis.call('HEXISTS', job_key(id), 'completed_at') == 0 then
    redis.call('ZREM', key('removals'), prefix)
  else
    prefixes[#prefixes + 1] = prefix
  end
end
return prefixes
