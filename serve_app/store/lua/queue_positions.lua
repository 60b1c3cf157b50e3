-- ARGV: tenant, id, tenant, id, ... Returns {position, expected wait in ms} of each; {} for a job that is not queued.
local replies = {}
for i = 1, #ARGV, 2 do
  local position = redis.call('ZRANK', key('wait:' .. ARGV[i]), ARGV[i + 1])
  replies[#replies + 1] = position and { position, expected_wait_ms(ARGV[i], position) } or {}
end
return replies
