-- ARGV: id, owner, tenant, urgency, max_attempts, ttl_ms, spec, queue_limit, webhook, digest and fingerprint of the
-- idempotency key, quota_ms a month, dialect, file, record of a new file, summary prompt, private (0 or 1), reserve_ms (length of the
-- audio), kept_limit; '' for what is missing.
-- Returns {outcome, id}, see SubmitOutcome; for a new job also its fields, queue position and expected wait in ms.
local id, tenant, limit, digest = ARGV[1], ARGV[3], tonumber(ARGV[8]), ARGV[10]
local quota_ms, file, kept_limit = tonumber(ARGV[12]), ARGV[14], tonumber(ARGV[19])
-- Sent again, as by redis-py if the reply was lost: the job exists, and may be running. It is written again, because the
-- caller may wait for replicas.
if redis.call('EXISTS', job_key(id)) == 1 then
  redis.call('HSET', job_key(id), 'id', id)
  return { 'new', id }
end
if digest ~= '' then
  local record = redis.call('HMGET', key('once:' .. digest), 'job', 'fingerprint')
  if record[2] then
    redis.call('HSET', key('once:' .. digest), 'job', record[1])
    return { record[2] == ARGV[11] and 'same' or 'other', record[1] }
  end
  if record[1] and record[1] ~= id then return { 'busy', record[1] } end
end
if limit > 0 and redis.call('ZCARD', key('wait:' .. tenant)) >= limit then return { 'full', '' } end
if kept_limit > 0 and tonumber(redis.call('HGET', key('kept'), tenant) or '0') >= kept_limit then return { 'kept', '' } end
if file ~= '' and ARGV[15] == '' then
  local found, deleted_at, source_deleted_at = unpack(
    redis.call('HMGET', key('file:' .. file), 'made_at', 'deleted_at', 'source_deleted_at')
  )
  if not found or deleted_at or source_deleted_at then return { 'gone', '' } end
end
if quota_ms > 0 and not reserve(id, tenant, quota_ms, tonumber(ARGV[18] ~= '' and ARGV[18] or nil)) then
  return { 'spent', '' }
end
local fields = { 'id', id, 'owner', ARGV[2], 'tenant', tenant, 'dialect', ARGV[13], 'urgency', ARGV[4],
  'max_attempts', ARGV[5], 'ttl_ms', ARGV[6], 'spec', ARGV[7], 'webhook', ARGV[9], 'once', digest, 'private', ARGV[17], 'created_at', now(),
  'attempts', 0, 'stalls', 0, 'losses', 0, 'next_window', 0, 'segments', 0, 'end_s', 0, 'audio_done_s', 0 }
local function set(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
if file ~= '' then
  if ARGV[15] ~= '' then redis.call('HSET', key('file:' .. file), 'record', ARGV[15], 'made_at', now()) end
  redis.call('SADD', key('file_jobs:' .. file), id)
  set('file', file)
end
if ARGV[16] ~= '' then set('summary', ARGV[16]) end
if digest ~= '' then
  redis.call('HSET', key('once:' .. digest), 'job', id, 'fingerprint', ARGV[11])
  redis.call('PERSIST', key('once:' .. digest))
end
wake_readers = false
local seq = redis.call('INCR', key('seq'))
set('seq', seq)
set('stamp', next_stamp())
redis.call('HSET', job_key(id), unpack(fields))
redis.call('ZADD', index_key(tenant, ARGV[2]), seq, id)
redis.call('HINCRBY', key('kept'), tenant, 1)
count('jobs_submitted')
set_phase(id, 'queued')
enqueue(id)
local position = redis.call('ZRANK', key('wait:' .. tenant), id)
return { 'new', id, redis.call('HGETALL', job_key(id)), position, expected_wait_ms(tenant, position) }
