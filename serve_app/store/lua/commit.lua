-- ARGV: id, token, window, end_s, audio_done_s, eta_s, language, device, progress, decodes, fill (thousandths), channel, until, state, warning, segment, ...
-- Appends a window's segments to the event stream and moves the checkpoint.
-- Returns `committed`, `repeated` (not the next window), `cancelling` (a cancel was requested) or `lost` (the lease).
local id, window = ARGV[1], tonumber(ARGV[3])
if not holds(id, ARGV[2]) then return 'lost' end
if redis.call('HGET', job_key(id), 'cancelling') then return 'cancelling' end
if window ~= tonumber(redis.call('HGET', job_key(id), 'next_window')) then return 'repeated' end
for i = 16, #ARGV do emit(id, 'segment', ARGV[i]) end
-- Progress resets the counts of lost workers.
redis.call('HSET', job_key(id), 'attempts', 1, 'stalls', 0, 'losses', 0, 'next_window', window + 1, 'end_s', ARGV[4],
  'audio_done_s', ARGV[5], 'device', ARGV[8])
redis.call('HINCRBY', job_key(id), 'segments', #ARGV - 15)
redis.call('HSET', job_key(id), 'channel:' .. ARGV[12], ARGV[14])
if ARGV[15] ~= '' then
  local warnings = redis.call('HGET', job_key(id), 'warnings')
  redis.call('HSET', job_key(id), 'warnings', warnings and warnings .. ',' .. ARGV[15] or ARGV[15])
end
count('windows')
if tonumber(ARGV[10]) > 1 then count('windows_redone') end
observe('batch_fill', tonumber(ARGV[11]))
if #ARGV >= 16 and redis.call('HSETNX', job_key(id), 'first_at', now()) == 1 then
  observe('first_segment_ms', now() - tonumber(redis.call('HGET', job_key(id), 'created_at')))
end
if ARGV[6] ~= '' then redis.call('HSET', job_key(id), 'eta_s', ARGV[6]) end
if ARGV[7] ~= '' then redis.call('HSET', job_key(id), 'language', ARGV[7]) end
emit(id, 'progress', ARGV[9])
return 'committed'
