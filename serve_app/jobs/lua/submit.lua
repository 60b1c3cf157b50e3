-- ARGV: id, owner, tenant, urgency, max_attempts, ttl_ms, spec, queue_limit. Returns 1, or 0 when the tenant's queue is full.
local id, tenant, limit = ARGV[1], ARGV[3], tonumber(ARGV[8])
-- A client that lost the answer asks again: the job is there, perhaps at work already.
if redis.call('EXISTS', job_key(id)) == 1 then return 1 end
if limit > 0 and redis.call('ZCARD', key('wait:' .. tenant)) >= limit then return 0 end
local seq = redis.call('INCR', key('seq'))
redis.call('HSET', job_key(id), 'id', id, 'owner', ARGV[2], 'tenant', tenant, 'urgency', ARGV[4], 'max_attempts', ARGV[5],
  'ttl_ms', ARGV[6], 'spec', ARGV[7], 'seq', seq, 'created_at', now(), 'attempts', 0, 'stalls', 0, 'next_window', 0,
  'segments', 0, 'end_s', 0, 'audio_done_s', 0)
redis.call('ZADD', key('index:' .. tenant), seq, id)
set_phase(id, 'queued')
enqueue(id)
return 1
