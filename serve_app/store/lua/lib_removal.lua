-- Removal of jobs' records, events and files.
-- `removals` holds prefixes in the storage that are to be deleted, by due time. A script that makes files superfluous adds
-- them there, so that they are deleted whichever process dies. Folders as in models/storage_paths.py.

-- Lists of job ids by time.
local DUE_LISTS = { 'expiry', 'ended', 'private', 'audio' }

local function remove_files(prefix, due) redis.call('ZADD', key('removals'), due, prefix) end

local function unlink_record(id)
  redis.call('UNLINK', job_key(id), key('events:' .. id))
  for _, list in ipairs(DUE_LISTS) do redis.call('ZREM', key(list), id) end
end

local function remove_job_files(id, unused_file, due)
  remove_files('jobs/' .. id, due)
  if unused_file then remove_files('files/' .. unused_file, due) end
end

-- Delete an ended job and everything about it, the log of its deliveries too unless `keep_deliveries`; its files at `due`.
-- Returns the id of its file if no other job needs that file.
local function delete_job(id, keep_deliveries, due)
  local tenant, owner, once, file, purged_at = unpack(
    redis.call('HMGET', job_key(id), 'tenant', 'owner', 'once', 'file', 'purged_at')
  )
  shelve(id, nil)
  if not purged_at then forget_kept(tenant) end
  local unused_file = release_file(id, file)
  close_deliveries(id, keep_deliveries)
  leave_turns('summaries', tenant, id)
  if once and redis.call('HGET', key('once:' .. once), 'job') == id then redis.call('DEL', key('once:' .. once)) end
  redis.call('ZREM', index_key(tenant, owner), id)
  unlink_record(id)
  remove_job_files(id, unused_file, due)
  redis.call('PUBLISH', key('wake'), id)
  return unused_file
end

-- Delete results, error and events of an ended job; its record stays for keep_ms, its files go at `due`.
-- Returns the id of its file if no other job needs that file.
local function purge_job(id, keep_ms, due)
  local t = now()
  local tenant, owner, phase, file = unpack(redis.call('HMGET', job_key(id), 'tenant', 'owner', 'phase', 'file'))
  forget_kept(tenant)
  redis.call('HSETNX', job_key(id), 'deleted_at', t)
  redis.call('HSET', job_key(id), 'purged_at', t)
  redis.call('HDEL', job_key(id), 'transcript', 'error_code', 'error_message', 'language')
  redis.call('UNLINK', key('events:' .. id))
  for _, list in ipairs({ 'ended', 'audio' }) do redis.call('ZREM', key(list), id) end
  leave_turns('summaries', tenant, id)
  redis.call('ZREM', index_key(tenant, owner), id)
  redis.call('ZADD', key('expiry'), t + keep_ms, id)
  shelve(id, phase .. ':purged')
  local unused_file = release_file(id, file)
  remove_job_files(id, unused_file, due)
  redis.call('PUBLISH', key('wake'), id)
  return unused_file
end

-- Ids of a list that were due `grace_ms` ago. A script acts on what is due at its own time, never on an older look.
local function due_ids(list, grace_ms, limit)
  return redis.call('ZRANGEBYSCORE', key(list), '-inf', now() - grace_ms, 'LIMIT', 0, limit)
end
