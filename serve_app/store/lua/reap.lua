-- ARGV: max_stalls, max_losses, lease_ms. Requeues jobs whose lease expired, without charging the attempt: it counts as a
-- stall if the worker had only this job, else as a loss. Returns the number of jobs.

local SAMPLE, MAX_GRANTS = 20, 2
local t, lease_ms = now(), tonumber(ARGV[3])

-- Whether nobody could renew: Redis restarted, or nothing called this script for a while, as while a laptop sleeps. No more
-- than MAX_GRANTS times in a row, lest slow sweeps keep every lease alive.
local function had_gap()
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
  local last, last_run, grants = unpack(redis.call('HMGET', key('reaped'), 'at', 'run', 'grants'))
  local gap = lease_ms > 0 and (last_run ~= run or t - tonumber(last) > lease_ms / 2)
  gap = gap and tonumber(grants or '0') < MAX_GRANTS
  redis.call('HSET', key('reaped'), 'at', t, 'run', run, 'grants', gap and tonumber(grants or '0') + 1 or 0)
  return gap
end

-- Whether a lost worker had other jobs. Remembered by worker, because the last of its jobs to be reaped finds no others.
local function had_others(worker)
  local shared = key('shared:' .. worker)
  if tonumber(redis.call('HGET', key('worker_jobs'), worker) or '1') > 1 then redis.call('SET', shared, 1, 'PX', 600000) end
  return redis.call('EXISTS', shared) == 1
end

-- Forget tenants' tags that lie behind the clock or, while nobody waits, all: they are of no use. And workers that are gone.
local function tidy()
  if redis.call('EXISTS', key('tenants')) == 0 then redis.call('DEL', key('finish')) end
  local clock = tonumber(redis.call('GET', key('clock')) or '0')
  local tags = redis.call('HRANDFIELD', key('finish'), SAMPLE, 'WITHVALUES')
  for i = 1, #tags, 2 do
    if tonumber(tags[i + 1]) <= clock then redis.call('HDEL', key('finish'), tags[i]) end
  end
  if redis.call('HLEN', key('pace')) > 50 * SAMPLE then
    for _, tenant in ipairs(redis.call('HRANDFIELD', key('pace'), SAMPLE)) do
      if redis.call('HEXISTS', key('claimed'), tenant) == 0 then redis.call('HDEL', key('pace'), tenant) end
    end
  end
  redis.call('ZREMRANGEBYSCORE', key('idle'), '-inf', t - 60000)
end

tidy()
if had_gap() then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', t + lease_ms)) do
    redis.call('ZADD', key('leases'), t + lease_ms, id)
  end
  return 0
end
local ids = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', t, 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  local worker, cancelling = unpack(redis.call('HMGET', job_key(id), 'worker', 'cancelling'))
  if not worker then
    unlink_ghost(id)
  else
    count('leases_expired')
    local shared = had_others(worker)
    if cancelling then
      finish(id, 'cancelled', 'cancelled', CANCELLED)
    elseif not lost_worker(id, shared and 'losses' or 'stalls', tonumber(ARGV[shared and 2 or 1])) then
      release_lease(id)
      redis.call('HINCRBY', job_key(id), 'attempts', -1)
      set_phase(id, 'queued')
      enqueue(id)
    end
  end
end
return #ids
