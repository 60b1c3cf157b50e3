-- Libraries of all scripts: scripts.py puts in front of each those blocks, separated by blank lines, that it needs.
-- KEYS[1] is the prefix of all keys, whose hash tag keeps them in one cluster slot.
-- Times are the server's, in milliseconds.
local prefix = KEYS[1]
local CANCELLED = 'The job was cancelled.'
local STALLED = 'The workers that took this job died each time, and it was given up: check the file.'

local function key(name) return prefix .. name end
local function job_key(id) return prefix .. 'job:' .. id end
local function index_key(tenant, owner) return prefix .. 'index:' .. tenant .. '/' .. owner end

local time_ms  -- read once: scripts take no time
local function now()
  if not time_ms then
    local t = redis.call('TIME')
    time_ms = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
  end
  return time_ms
end

-- Decrement a field of a hash of counts; a count of nothing leaves the hash.
local function decrement(name, field)
  if redis.call('HINCRBY', key(name), field, -1) <= 0 then redis.call('HDEL', key(name), field) end
end

-- Whether `emit` publishes to `wake`. Off while a new job is written, which nobody can follow yet.
local wake_readers = true

-- Month of a time as YYYY-MM (days to date: H. Hinnant, chrono-compatible low-level date algorithms).
local function month(t)
  local days = math.floor(t / 86400000) + 719468
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  local number = from_march < 10 and from_march + 3 or from_march - 9
  return string.format('%04d-%02d', year + era * 400 + (number <= 2 and 1 or 0), number)
end

local function emit(id, kind, data)
  local event = redis.call('XADD', key('events:' .. id), '*', 'kind', kind, 'data', data)
  if wake_readers then redis.call('PUBLISH', key('wake'), id) end
  return event
end

-- Counters and histograms of all replicas: `name` is a count, `name:sum` and `name:le:BOUND` make it a histogram.
local BOUNDS = { 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000 }

local function count(name) redis.call('HINCRBY', key('metrics'), name, 1) end

local function observe(name, ms)
  count(name)
  redis.call('HINCRBY', key('metrics'), name .. ':sum', ms)
  for _, bound in ipairs(BOUNDS) do
    if ms <= bound then
      count(name .. ':le:' .. bound)
      return
    end
  end
end

-- A status index (`shelf` in keys and fields) holds the jobs of one owner, dialect and status: STATE, STATE:deleted or
-- STATE:purged. It is sorted by creation stamp: milliseconds times STAMPS, plus a number that orders jobs of one millisecond.
local STAMPS = 1024
local FINAL = { completed = true, failed = true, cancelled = true }
local SHELVES = { downloading = 'running', transcoding = 'running', transcribing = 'running' }

-- Each status index exists twice: sorted by creation (`order` is `made`) and by end (`ended`). In the latter, jobs that have
-- not ended come first, with negative stamps.
local function shelf_key(order, owner, shelf) return key(order .. ':' .. owner .. ':' .. shelf) end

local UNENDED = 2 ^ 52

-- Stamps are unique and strictly increasing.
local function next_stamp()
  local stamp = math.max(now() * STAMPS, tonumber(redis.call('GET', key('stamp')) or '0') + 1)
  redis.call('SET', key('stamp'), string.format('%.0f', stamp))
  return string.format('%.0f', stamp)
end

local function stamp_of(t, seq) return string.format('%.0f', t * STAMPS + seq % STAMPS) end

-- Move a job to another status index (nil: to none). Jobs of a shared file are also indexed by that file.
local function shelve(id, shelf)
  local tenant, owner, dialect, created_stamp, current, seq, completed_at, file, erasing = unpack(redis.call('HMGET',
    job_key(id), 'tenant', 'owner', 'dialect', 'stamp', 'shelf', 'seq', 'completed_at', 'file', 'erasing'))
  if erasing then shelf = nil end  -- deleted as soon as it ends, and hidden until then
  if not created_stamp or current == shelf then return end
  local ended_stamp = string.format('%.0f', tonumber(seq) - UNENDED)
  if completed_at then ended_stamp = stamp_of(tonumber(completed_at), tonumber(seq)) end
  local jobs_of = tenant .. '/' .. owner .. '/' .. dialect
  for _, index in ipairs(file and { jobs_of, jobs_of .. '@' .. file } or { jobs_of }) do
    for order, stamp in pairs({ made = created_stamp, ended = ended_stamp }) do
      if current then redis.call('ZREM', shelf_key(order, index, current), id) end
      if shelf then redis.call('ZADD', shelf_key(order, index, shelf), stamp, id) end
    end
  end
  if shelf then redis.call('HSET', job_key(id), 'shelf', shelf) else redis.call('HDEL', job_key(id), 'shelf') end
end

local function set_phase(id, phase)
  local t = now()
  local previous, since = unpack(redis.call('HMGET', job_key(id), 'phase', 'phase_at'))
  -- An ended job that is retried was in no phase meanwhile.
  if since and not FINAL[previous] then observe('phase_ms:' .. previous, t - tonumber(since)) end
  redis.call('HSET', job_key(id), 'phase', phase, 'phase_at', t)
  shelve(id, SHELVES[phase] or phase)
  return emit(id, 'phase', cjson.encode({ phase = phase }))
end

local function holds(id, token)
  return redis.call('HGET', job_key(id), 'token') == token and redis.call('ZSCORE', key('leases'), id) ~= false
end

-- Drop a job's reference to its file. Returns the file's id if that was the last one; the record stays, marked, for a while.
local FILE_RECORD_MS = 2592000000
local function release_file(id, file)
  if not file or redis.call('SREM', key('file_jobs:' .. file), id) == 0 then return nil end
  if redis.call('SCARD', key('file_jobs:' .. file)) > 0 then return nil end
  redis.call('HSETNX', key('file:' .. file), 'deleted_at', now())
  redis.call('PEXPIRE', key('file:' .. file), FILE_RECORD_MS)
  return file
end

-- Id of a webhook delivery. A retried job ends again, with another event.
local function delivery(id, done_event) return id .. ':' .. done_event end

-- Add a member to a list in which tenants take turns, see lib_turns.lua.
local function queue_in_turn(list, tenant, member, due)
  redis.call('ZADD', key(list .. ':' .. tenant), due, member)
  redis.call('ZADD', key(list), 'LT', due, tenant)
end

local function is_private(id) return redis.call('HGET', job_key(id), 'private') == '1' end

-- Count a job less among those that its tenant keeps: its results were deleted.
local function forget_kept(tenant) decrement('kept', tenant) end

-- Add a warning (JSON) to a job, once: a script may be sent again. At MAX_WARNINGS a last one says that more were left out.
local MAX_WARNINGS = 100
local MORE = '{"code":"more_warnings","message":"There were more warnings, which are not listed.","start":null,"end":null}'
local function add_warning(id, warning)
  local list, size = unpack(redis.call('HMGET', job_key(id), 'warnings', 'warning_count'))
  size = tonumber(size or '0')
  if size >= MAX_WARNINGS or (list and string.find(list, warning, 1, true)) then return end
  if size == MAX_WARNINGS - 1 then warning = MORE end
  list = list and string.sub(list, 1, -2) .. ',' .. warning .. ']' or '[' .. warning .. ']'
  redis.call('HSET', job_key(id), 'warnings', list, 'warning_count', size + 1)
end
