-- ARGV: max_stalls. Takes jobs back from workers that let their lease expire; the attempt does not count, the stall does.
-- A job that stalls too often is failed: it is likely what kills its workers. Returns how many were taken back.
local ids = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now(), 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  release(id)
  local stalls = redis.call('HINCRBY', job_key(id), 'stalls', 1)
  if redis.call('HGET', job_key(id), 'cancelling') then
    finish(id, 'cancelled', 'cancelled', CANCELLED)
  elseif stalls >= tonumber(ARGV[1]) then
    finish(id, 'failed', 'internal', 'The workers that took this job died each time: it was given up. Check the file.')
  else
    redis.call('HINCRBY', job_key(id), 'attempts', -1)
    set_phase(id, 'queued')
    enqueue(id)
  end
end
return #ids
