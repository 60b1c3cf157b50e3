-- ARGV: id, state, error ('' for none), wait_ms. Records an attempt at a summary; a `pending` one is due again after wait_ms.
-- Returns 1, or 0 if the job is deleted or purged.
local id = ARGV[1]
local tenant, purged_at = unpack(redis.call('HMGET', job_key(id), 'tenant', 'purged_at'))
if not tenant or purged_at then return 0 end
redis.call('HINCRBY', job_key(id), 'summary_tries', 1)
redis.call('HSET', job_key(id), 'summary_state', ARGV[2], 'summary_error', ARGV[3])
if ARGV[2] == 'pending' then
  queue_in_turn('summaries', tenant, id, now() + tonumber(ARGV[4]))
else
  leave_turns('summaries', tenant, id)
end
return 1
