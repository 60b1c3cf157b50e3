-- Sharing of running jobs: a commit may answer that the job must make room for one that waits.

local SLICE_MS = 30000  -- a job that made room before runs this long, times its tenant's weight, until it does again

local ROOM_MS = 5000  -- time for a job to be given back; until then no other makes room for the same tenant

local FEW = 64  -- tenants whose weights are added up at each commit; for more, once a second

local function place_is_free()
  return #redis.call('ZRANGEBYSCORE', key('idle'), now() - FREE_MS, '+inf', 'LIMIT', 0, 1) > 0
end

local function to_table(fields)
  local numbers = {}
  for i = 1, #fields, 2 do numbers[fields[i]] = tonumber(fields[i + 1]) end
  return numbers
end

-- Running jobs and weights by tenant, and how many running jobs are the share of a tenant that weighs 1. `waiting`: FEW of the
-- tenants that wait. For many tenants that share is computed once a second.
local function shares(waiting)
  local weights, many = to_table(redis.call('HGETALL', key('weights'))), redis.call('HLEN', key('running')) > FEW
  many = many or #waiting == FEW
  local running = to_table(redis.call('HGETALL', key('running')))
  local known = many and redis.call('GET', key('share'))
  if known then return running, weights, tonumber(known) end
  if many then waiting = redis.call('ZRANGE', key('tenants'), 0, -1) end
  local jobs, total = 0, 0
  for tenant, number in pairs(running) do
    jobs, total = jobs + number, total + (weights[tenant] or 1)
  end
  for _, tenant in ipairs(waiting) do
    if not running[tenant] then total = total + (weights[tenant] or 1) end
  end
  if many then redis.call('SET', key('share'), jobs / total, 'PX', 1000) end
  return running, weights, jobs / total
end

local function is_urgent_waiting(tenant)
  local score = redis.call('ZRANGE', key('wait:' .. tenant), 0, 0, 'WITHSCORES')[2]
  return score ~= nil and tonumber(score) < URGENT
end

-- The tenants among `waiting` that have less than their share, as a set.
local function small_tenants(waiting)
  local running, weights, share = shares(waiting)
  local small = {}
  for _, tenant in ipairs(waiting) do
    small[tenant] = (running[tenant] or 0) < share * (weights[tenant] or 1) or nil
  end
  return small
end

local function is_room_being_made(tenant)
  local since = redis.call('HGET', key('making_room'), tenant)
  return since and now() - tonumber(since) < ROOM_MS
end

-- Tenant among `waiting` that lacks places of its share while `tenant` has too many of its own, or nil. Bulk jobs make room
-- for interactive ones already where their tenant has exactly its share.
local function lacking_share(waiting, tenant, bulk, cap)
  local running, weights, share = shares(waiting)
  local function excess(of) return (running[of] or 0) - share * (weights[of] or 1) end
  local over = excess(tenant)
  if over < -1e-6 or (over < 1e-6 and not bulk) then return nil end
  local since = redis.call('HMGET', key('making_room'), unpack(waiting))
  for i, other in ipairs(waiting) do
    local may_run = other ~= tenant and (cap == 0 or (running[other] or 0) < cap) and excess(other) < -1e-6
    local is_made = since[i] and now() - tonumber(since[i]) < ROOM_MS
    if may_run and not is_made and (over > 1e-6 or is_urgent_waiting(other)) then return other end
  end
end

-- Tenant for which a running job must make room, unless another does so already, or nil. `fields`: tenant, bulk, cap of a
-- tenant's running jobs, claimed_at, yielded.
local function waiting_for_room(fields)
  local waiting, tenant, cap = redis.call('ZRANGE', key('tenants'), 0, FEW - 1), fields.tenant, fields.cap
  if #waiting == 0 then return nil end
  if fields.yielded and now() - fields.claimed_at < SLICE_MS * weight_of(tenant) then return nil end
  if fields.bulk and is_urgent_waiting(tenant) and not is_room_being_made(tenant) then
    if (cap > 0 and running_jobs(tenant) >= cap) or not place_is_free() then return tenant end
  end
  if #waiting == 1 and waiting[1] == tenant then return nil end
  local other = lacking_share(waiting, tenant, fields.bulk, cap)
  return other and not place_is_free() and other or nil
end

-- Ask a running job to make room. Returns whether it must be given back.
local function make_room(id, token, fields)
  local other = waiting_for_room(fields)
  if not other then return false end
  redis.call('HSET', key('making_room'), other, now())
  redis.call('PEXPIRE', key('making_room'), ROOM_MS)
  redis.call('HSET', job_key(id), 'yielded', token .. ' ' .. other)
  return true
end

-- After a job was given back: let the tenant that it made room for go first, at the cost of no turn.
local function hand_over(yielded, token)
  local of_claim, tenant = string.match(yielded or '', '^(%d+) (.*)$')
  local tag = of_claim == token and redis.call('ZSCORE', key('tenants'), tenant)
  local first = tag and tonumber(redis.call('GET', key('clock')) or '0') - 1 / weight_of(tenant)
  if first and first < tonumber(tag) then redis.call('ZADD', key('tenants'), first, tenant) end
end
