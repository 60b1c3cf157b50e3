-- ARGV: id, token, channel ('' for the mix), until (samples, 0 to count by window), state of the channel, window, end_s,
-- audio_done_s, eta_s, language, device, progress, decodes, fill (thousandths), warning, segment, ...
-- Appends a window's segments to the event stream and moves the checkpoint. Returns `committed`, `yield` or `exhausted`
-- (committed), `repeated` (committed before), `cancelling` (a cancel was requested) or `lost` (the lease).
local id, token, place, channel, FIRST_SEGMENT = ARGV[1], ARGV[2], ARGV[4], 'until:' .. ARGV[3], 16
local holder, cancelling, next_window, committed, first_at, created_at, retried_at, tenant, urgency, claimed_at, yielded,
  cap, quota_ms, counted_ms = unpack(redis.call('HMGET', job_key(id), 'token', 'cancelling', 'next_window', channel,
  'first_at', 'created_at', 'retried_at', 'tenant', 'urgency', 'claimed_at', 'yielded', 'cap', 'quota_ms', 'counted_ms'))
if holder ~= token then return 'lost' end  -- a lease that ends takes the token along
if cancelling then return 'cancelling' end
if place == '0' then
  if tonumber(ARGV[6]) ~= tonumber(next_window) then return 'repeated' end
elseif tonumber(place) <= tonumber(committed or '0') then
  return 'repeated'
end
wake_readers = false
for i = FIRST_SEGMENT, #ARGV do emit(id, 'segment', ARGV[i]) end
local texts = #ARGV - FIRST_SEGMENT + 1
-- Progress forgives: attempts and lost workers are counted since the last commit.
local fields = { 'attempts', 1, 'stalls', 0, 'losses', 0, 'next_window', tonumber(next_window) + 1, 'end_s', ARGV[7],
  'audio_done_s', ARGV[8], 'device', ARGV[11], channel, place, 'channel:' .. ARGV[3], ARGV[5] }
local function set(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
if ARGV[9] ~= '' then set('eta_s', ARGV[9]) end
if ARGV[10] ~= '' then set('language', ARGV[10]) end
if texts > 0 and not first_at then
  set('first_at', now())
  observe('first_segment_ms', now() - tonumber(retried_at or created_at))
end
redis.call('HSET', job_key(id), unpack(fields))
if texts > 0 then redis.call('HINCRBY', job_key(id), 'segments', texts) end
if ARGV[15] ~= '' then add_warning(id, ARGV[15]) end
count('windows')
if tonumber(ARGV[13]) > 1 then count('windows_redone') end
observe('batch_fill', tonumber(ARGV[14]))
emit(id, 'progress', ARGV[12])
redis.call('PUBLISH', key('wake'), id)
if quota_ms and used_up(id, tenant, ARGV[8], counted_ms) then return 'exhausted' end
local running = { tenant = tenant, bulk = urgency ~= '0', cap = tonumber(cap or '0'),
  claimed_at = tonumber(claimed_at or '0'), yielded = yielded }
return make_room(id, token, running) and 'yield' or 'committed'
