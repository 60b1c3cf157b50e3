-- ARGV: id, owner, tenant, urgency, max_attempts, ttl_ms, spec, queue_limit, webhook, digest and fingerprint of the idempotency
-- key, quota_ms a month, dialect, file, record of a new file, summary prompt, private (0 or 1); '' for what is missing.
-- Returns {outcome, id}, see SubmitOutcome; for a new job also its fields, queue position and expected wait in ms.
local id, tenant, limit, digest = ARGV[1], ARGV[3], tonumber(ARGV[8]), ARGV[10]
-- redis-py sends a command again if the reply was lost: the job exists, and may be running.
if redis.call('EXISTS', job_key(id)) == 1 then return { 'new', id } end
if digest ~= '' then
  local record = redis.call('HMGET', key('once:' .. digest), 'job', 'fingerprint')
  if record[2] then return { record[2] == ARGV[11] and 'same' or 'other', record[1] } end
  if record[1] and record[1] ~= id then return { 'busy', record[1] } end
end
local quota = tonumber(ARGV[12])
local used = tonumber(redis.call('HGET', key('used:' .. tenant), month(now())) or '0')
if quota > 0 and used >= quota then return { 'spent', '' } end
if limit > 0 and redis.call('ZCARD', key('wait:' .. tenant)) >= limit then return { 'full', '' } end
local file = ARGV[14]
if file ~= '' then
  if ARGV[15] ~= '' then
    redis.call('HSET', key('file:' .. file), 'record', ARGV[15], 'made_at', now())
  elseif redis.call('EXISTS', key('file:' .. file)) == 0
    or redis.call('HEXISTS', key('file:' .. file), 'deleted_at') == 1
    or redis.call('HEXISTS', key('file:' .. file), 'source_deleted_at') == 1 then
    return { 'gone', '' }
  end
  redis.call('SADD', key('file_jobs:' .. file), id)
  redis.call('HSET', job_key(id), 'file', file)
end
if ARGV[16] ~= '' then redis.call('HSET', job_key(id), 'summary', ARGV[16]) end
if digest ~= '' then
  redis.call('HSET', key('once:' .. digest), 'job', id, 'fingerprint', ARGV[11])
  redis.call('PERSIST', key('once:' .. digest))
end
wake_readers = false
local seq = redis.call('INCR', key('seq'))
redis.call('HSET', job_key(id), 'id', id, 'owner', ARGV[2], 'tenant', tenant, 'dialect', ARGV[13], 'urgency', ARGV[4],
  'max_attempts', ARGV[5], 'ttl_ms', ARGV[6], 'spec', ARGV[7], 'webhook', ARGV[9], 'once', digest, 'seq', seq,
  'private', ARGV[17], 'stamp', next_stamp(), 'created_at', now(), 'attempts', 0, 'stalls', 0, 'losses', 0,
  'next_window', 0, 'segments', 0, 'end_s', 0, 'audio_done_s', 0)
redis.call('ZADD', index_key(tenant, ARGV[2]), seq, id)
count('jobs_submitted')
set_phase(id, 'queued')
enqueue(id)
local position = redis.call('ZRANK', key('wait:' .. tenant), id)
return { 'new', id, redis.call('HGETALL', job_key(id)), position, expected_wait_ms(tenant, position) }
