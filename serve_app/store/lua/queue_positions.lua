-- ARGV: tenant, id, tenant, id, ... of queued jobs. Returns {position, expected wait in ms} of each; {} for one that waits no more.
local replies = {}
for i = 1, #ARGV, 2 do
  local position = redis.call('ZRANK', key('wait:' .. ARGV[i]), ARGV[i + 1])
  replies[#replies + 1] = position and { position, expected_wait_ms(ARGV[i], position) } or {}
end
return replies
