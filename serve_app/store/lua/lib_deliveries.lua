-- Deliveries of webhooks.
local function job_of(name) return string.match(name, '^[^:]+') end

-- Whether a delivery is of the job's last end.
local function is_current(name)
  local done_event = redis.call('HGET', job_key(job_of(name)), 'done_event')
  return done_event and delivery(job_of(name), done_event) == name
end

local function forget_delivery(name, tenant, owner)
  leave_turns('webhooks', tenant, name)
  redis.call('DEL', key('delivery:' .. name))
  redis.call('ZREM', key('deliveries:' .. tenant .. '/' .. owner), name)
  redis.call('ZREM', key('delivery_expiry'), name)
end

-- Take back the delivery of a job that is retried. One that was settled stays in the log.
local function retract_delivery(id)
  local tenant, owner, done_event, earlier = unpack(
    redis.call('HMGET', job_key(id), 'tenant', 'owner', 'done_event', 'earlier_ends')
  )
  if not done_event then return end
  local name = delivery(id, done_event)
  local state = redis.call('HGET', key('delivery:' .. name), 'state')
  if state and state ~= 'pending' then
    leave_turns('webhooks', tenant, name)
    redis.call('HSET', job_key(id), 'earlier_ends', (earlier and earlier .. ' ' or '') .. done_event)
  else
    forget_delivery(name, tenant, owner)
  end
end

-- Settle the deliveries of a job that is deleted: forget them, or (`keep`) leave their log and give up the pending one.
local function close_deliveries(id, keep)
  local tenant, owner, done_event, earlier = unpack(
    redis.call('HMGET', job_key(id), 'tenant', 'owner', 'done_event', 'earlier_ends')
  )
  for event in string.gmatch((earlier or '') .. ' ' .. (done_event or ''), '[^ ]+') do
    local name = delivery(id, event)
    local record = key('delivery:' .. name)
    if keep then
      leave_turns('webhooks', tenant, name)
      if redis.call('HGET', record, 'state') == 'pending' then redis.call('HSET', record, 'state', 'dead') end
    else
      forget_delivery(name, tenant, owner)
    end
  end
end
