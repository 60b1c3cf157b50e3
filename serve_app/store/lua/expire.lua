-- ARGV: limit. Deletes jobs past their TTL; one whose record outlives its results is purged first. Ids without a record, or
-- of jobs that run again, leave the list. Returns the number of ids.

-- Milliseconds for which the record outlives the results, nil for not at all or if the spec cannot be read.
local function record_ttl_ms(spec)
  local readable, fields = pcall(cjson.decode, spec or '')
  local seconds = readable and type(fields) == 'table' and tonumber(fields.record_ttl_s or nil)
  return seconds and seconds > 0 and seconds * 1000 or nil
end

local ids, t = due_ids('expiry', 0, tonumber(ARGV[1])), now()
for _, id in ipairs(ids) do
  local tenant, owner, completed_at, purged_at, erasing, spec = unpack(
    redis.call('HMGET', job_key(id), 'tenant', 'owner', 'completed_at', 'purged_at', 'erasing', 'spec')
  )
  local keep_ms = record_ttl_ms(spec)
  if not tenant or not owner then
    unlink_ghost(id, tenant)
    unlink_record(id)
    remove_files('jobs/' .. id, t)
  elseif not completed_at then
    redis.call('ZREM', key('expiry'), id)
  elseif keep_ms and not purged_at and not erasing then
    purge_job(id, keep_ms, t)
  else
    delete_job(id, not erasing, t)
  end
end
return #ids
