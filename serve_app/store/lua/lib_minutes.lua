-- Minutes of audio a month. `used:TENANT` has what ended jobs transcribed, by month; `held:TENANT` what each queued or
-- running job reserves, and `held` its sum. A hold grows only while there is something left: both never pass the quota.
local RESERVE_MS = 60000  -- of a job whose length is not known yet

local MONTHS = 13  -- to keep

local function left_ms(tenant, quota_ms)
  local used = tonumber(redis.call('HGET', key('used:' .. tenant), month(now())) or '0')
  return math.max(quota_ms - used - tonumber(redis.call('HGET', key('held'), tenant) or '0'), 0)
end

-- Set the hold of a job, or drop it (0).
local function hold(id, tenant, ms)
  local before = tonumber(redis.call('HGET', key('held:' .. tenant), id) or '0')
  if ms > 0 then
    redis.call('HSET', key('held:' .. tenant), id, ms)
  else
    redis.call('HDEL', key('held:' .. tenant), id)
  end
  if redis.call('HINCRBY', key('held'), tenant, ms - before) <= 0 then redis.call('HDEL', key('held'), tenant) end
end

-- Reserve minutes for a job that is queued: `exact_ms` in whole where its length is known, else what is left of RESERVE_MS.
-- Returns whether there are any.
local function reserve(id, tenant, quota_ms, exact_ms)
  local left = left_ms(tenant, quota_ms)
  if left <= 0 or (exact_ms and exact_ms > left) then return false end
  redis.call('HSET', job_key(id), 'quota_ms', quota_ms)
  hold(id, tenant, math.max(exact_ms or math.min(RESERVE_MS, left), 1))
  return true
end

-- Fit the hold of a job to its need, as far as the quota goes. Returns what it may use: all if it was made without quota.
local function fit_hold(id, tenant, need_ms)
  local held = tonumber(redis.call('HGET', key('held:' .. tenant), id) or nil)
  local quota_ms = held and tonumber(redis.call('HGET', job_key(id), 'quota_ms') or nil)
  if not quota_ms then return need_ms end
  local fitting = math.max(math.min(need_ms, held + left_ms(tenant, quota_ms)), 1)
  if fitting ~= held then hold(id, tenant, fitting) end
  return fitting
end

-- Audio of a job in milliseconds that no earlier end has charged, of which `seconds` are known.
local function uncharged_ms(seconds, counted_ms)
  return math.floor(tonumber(seconds) * 1000) - tonumber(counted_ms or '0')
end

-- Whether a commit used up what the job may use.
local function used_up(id, tenant, done_s, counted_ms)
  local need = uncharged_ms(done_s, counted_ms)
  local held = tonumber(redis.call('HGET', key('held:' .. tenant), id) or nil)
  return held ~= nil and need > held and fit_hold(id, tenant, need) < need
end

-- Reserve what a running job needs once its length is known.
local function reserve_length(id)
  local tenant, quota_ms, total_s, declared_s, done_s, counted_ms = unpack(redis.call('HMGET', job_key(id), 'tenant',
    'quota_ms', 'audio_total_s', 'audio_declared_s', 'audio_done_s', 'counted_ms'))
  if not quota_ms then return end
  local seconds = math.max(tonumber(total_s or declared_s or '0'), tonumber(done_s))
  if seconds > 0 then fit_hold(id, tenant, uncharged_ms(seconds, counted_ms)) end
end

-- Charge an ended job's audio to its tenant's month, without what was charged at an earlier end, and drop its hold.
local function settle(id, tenant)
  local done_s, counted_ms = unpack(redis.call('HMGET', job_key(id), 'audio_done_s', 'counted_ms'))
  local need = uncharged_ms(done_s, counted_ms)
  if need > 0 then
    local used, this_month = key('used:' .. tenant), month(now())
    local charge = fit_hold(id, tenant, need)
    redis.call('HINCRBY', used, this_month, charge)
    redis.call('HSET', job_key(id), 'counted_ms', need + tonumber(counted_ms or '0'))
    if redis.call('HLEN', used) > MONTHS then
      local months = redis.call('HKEYS', used)
      table.sort(months)
      for i = 1, #months - MONTHS do redis.call('HDEL', used, months[i]) end
    end
  end
  if redis.call('HEXISTS', key('held:' .. tenant), id) == 1 then hold(id, tenant, 0) end
end
