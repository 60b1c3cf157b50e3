-- ARGV: max_stalls, max_losses. Requeues jobs whose lease expired, without charging the attempt: it counts as a stall if the
-- worker had only this job, else as a loss. Returns the number of jobs.

-- Whether a lost worker had other jobs. Remembered by worker, because the last of its jobs to be reaped finds no others.
local function had_others(worker, id)
  if redis.call('EXISTS', key('shared:' .. worker)) == 1 then return true end
  for _, other in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
    if other ~= id and redis.call('HGET', job_key(other), 'worker') == worker then
      redis.call('SET', key('shared:' .. worker), 1, 'PX', 600000)
      return true
    end
  end
  return false
end

local ids = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now(), 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  count('leases_expired')
  local shared = had_others(redis.call('HGET', job_key(id), 'worker'), id)
  if redis.call('HGET', job_key(id), 'cancelling') then
    finish(id, 'cancelled', 'cancelled', CANCELLED)
  elseif not lost_worker(id, shared and 'losses' or 'stalls', tonumber(ARGV[shared and 2 or 1])) then
    release_lease(id)
    redis.call('HINCRBY', job_key(id), 'attempts', -1)
    set_phase(id, 'queued')
    enqueue(id)
  end
end
return #ids
