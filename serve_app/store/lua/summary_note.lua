-- ARGV: id, state, error ('' for none), wait_ms. Records an attempt at a summary; a `pending` one is due again after wait_ms.
-- Returns 1, or 0 if the job is deleted or purged.
local id = ARGV[1]
if redis.call('EXISTS', job_key(id)) == 0 or redis.call('HEXISTS', job_key(id), 'purged_at') == 1 then
  redis.call('ZREM', key('summaries'), id)
  return 0
end
redis.call('HINCRBY', job_key(id), 'summary_tries', 1)
redis.call('HSET', job_key(id), 'summary_state', ARGV[2], 'summary_error', ARGV[3])
if ARGV[2] == 'pending' then
  redis.call('ZADD', key('summaries'), now() + tonumber(ARGV[4]), id)
else
  redis.call('ZREM', key('summaries'), id)
end
return 1
