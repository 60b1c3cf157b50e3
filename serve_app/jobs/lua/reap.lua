-- ARGV: max_losses. Takes jobs back from workers that let their lease expire; the attempt does not count, the loss
-- does. Returns how many were taken back.
local ids = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now(), 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  count('leases_expired')
  if redis.call('HGET', job_key(id), 'cancelling') then
    finish(id, 'cancelled', 'cancelled', CANCELLED)
  elseif not lost_worker(id, 'losses', tonumber(ARGV[1])) then
    release(id)
    redis.call('HINCRBY', job_key(id), 'attempts', -1)
    set_phase(id, 'queued')
    enqueue(id)
  end
end
return #ids
