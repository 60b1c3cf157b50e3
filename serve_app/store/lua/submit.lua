-- ARGV: id, owner, tenant, urgency, max_attempts, ttl_ms, spec, queue_limit, webhook, once, fingerprint, quota_ms of audio a
-- month, dialect, file ('' for none), the file's record where it is new ('' else), id of the prompt to summarise with ('' for none), private (0 or 1). `once` is where
-- the request's idempotency key is kept, '' without one. Returns {verdict, job}: `new`; `same` or `other` where the key
-- stands for a job made by the same or another request; `busy` where a request with it is under way; `full`; `spent`; `gone`
-- where the file is. With a job that is new come its fields, its place and its queue's pace: nobody has to ask again.
local id, tenant, limit, once = ARGV[1], ARGV[3], tonumber(ARGV[8]), ARGV[10]
-- A client that lost the answer asks again: the job is there, perhaps at work already.
if redis.call('EXISTS', job_key(id)) == 1 then return { 'new', id } end
if once ~= '' then
  local held = redis.call('HMGET', key('once:' .. once), 'job', 'fingerprint')
  if held[2] then return { held[2] == ARGV[11] and 'same' or 'other', held[1] } end
  if held[1] and held[1] ~= id then return { 'busy', held[1] } end
end
local quota = tonumber(ARGV[12])
local used = tonumber(redis.call('HGET', key('used:' .. tenant), month(now())) or '0')
if quota > 0 and used >= quota then return { 'spent', '' } end
if limit > 0 and redis.call('ZCARD', key('wait:' .. tenant)) >= limit then return { 'full', '' } end
local file = ARGV[14]
if file ~= '' then
  if ARGV[15] ~= '' then
    redis.call('HSET', key('file:' .. file), 'record', ARGV[15], 'made_at', now())
  elseif redis.call('EXISTS', key('file:' .. file)) == 0 or redis.call('HEXISTS', key('file:' .. file), 'deleted_at') == 1 then
    return { 'gone', '' }
  end
  redis.call('SADD', key('file_jobs:' .. file), id)
  redis.call('HSET', job_key(id), 'file', file)
end
if ARGV[16] ~= '' then redis.call('HSET', job_key(id), 'summary', ARGV[16]) end
if once ~= '' then
  redis.call('HSET', key('once:' .. once), 'job', id, 'fingerprint', ARGV[11])
  redis.call('PERSIST', key('once:' .. once))
end
quiet = true
local seq = redis.call('INCR', key('seq'))
redis.call('HSET', job_key(id), 'id', id, 'owner', ARGV[2], 'tenant', tenant, 'dialect', ARGV[13], 'urgency', ARGV[4],
  'max_attempts', ARGV[5], 'ttl_ms', ARGV[6], 'spec', ARGV[7], 'webhook', ARGV[9], 'once', once, 'seq', seq,
  'private', ARGV[17], 'stamp', next_stamp(), 'created_at', now(), 'attempts', 0, 'stalls', 0, 'losses', 0, 'next_window', 0, 'segments', 0,
  'end_s', 0, 'audio_done_s', 0)
redis.call('ZADD', index_key(tenant, ARGV[2]), seq, id)
count('jobs_submitted')
set_phase(id, 'queued')
enqueue(id)
local position = redis.call('ZRANK', key('wait:' .. tenant), id)
return { 'new', id, redis.call('HGETALL', job_key(id)), position, expected_wait_ms(tenant, position) }
