-- ARGV: id, token, phase ('' to stay), field, value, ... Moves a job on to a phase and sets fields of its hash.
-- Returns 1, or 0 if the lease is lost.
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 0 end
if #ARGV > 3 then
  redis.call('HSET', job_key(id), unpack(ARGV, 4))
  reserve_length(id)
end
if ARGV[3] ~= '' and redis.call('HGET', job_key(id), 'phase') ~= ARGV[3] then set_phase(id, ARGV[3]) end
return 1
