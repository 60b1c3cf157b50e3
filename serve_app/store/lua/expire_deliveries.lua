-- ARGV: limit. Deletes the log of deliveries whose time is up. Returns the number of ids.
local names = due_ids('delivery_expiry', 0, tonumber(ARGV[1]))
for _, name in ipairs(names) do
  local owner = redis.call('HGET', key('delivery:' .. name), 'owner') or ''
  local tenant, person = string.match(owner, '^([^/]*)/(.*)$')
  if tenant then forget_delivery(name, tenant, person) else redis.call('ZREM', key('delivery_expiry'), name) end
end
return #names
