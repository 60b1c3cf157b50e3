-- ARGV: place (TENANT/OWNER/DIALECT, with @FILE for those made of one), shelves (with commas), order (made or ended), asc or
-- desc, made after and before, ended after and before (milliseconds, '' for any), the stamp that the page before ended with
-- (''), offset, limit. Returns how many jobs there are, then id and stamp of those of the page.
local place, order, down = ARGV[1], ARGV[3], ARGV[4] == 'desc'
local after, offset, limit = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])
local names = {}
for name in string.gmatch(ARGV[2], '[^,]+') do names[#names + 1] = name end

local function plain(stamp) return string.format('%.0f', stamp) end

-- Bounds of stamps. Whoever asks for a time of the end means jobs that have one.
local function bounds(which)
  local first = which == 'made' and 5 or 7
  local low, high = '-inf', '+inf'
  if ARGV[first] ~= '' then low = plain(tonumber(ARGV[first]) * STAMPS) end
  if ARGV[first + 1] ~= '' then high = '(' .. plain((tonumber(ARGV[first + 1]) + 1) * STAMPS) end
  if which == 'ended' and low == '-inf' and high ~= '+inf' then low = '0' end
  return low, high, low ~= '-inf' or high ~= '+inf'
end

local function counted(which, low, high)
  local sum = 0
  for _, name in ipairs(names) do sum = sum + redis.call('ZCOUNT', shelf_key(which, place, name), low, high) end
  return sum
end

local function sorted(found)
  table.sort(found, function(a, b)
    if down then return a[2] > b[2] end
    return a[2] < b[2]
  end)
  return found
end

local function page(total, found, from)
  local told = { total }
  for i = from + 1, math.min(from + limit, #found) do
    told[#told + 1] = found[i][1]
    told[#told + 1] = plain(found[i][2])
  end
  return told
end

local low, high = bounds(order)
local other = order == 'made' and 'ended' or 'made'
local other_low, other_high, crossed = bounds(other)

-- Bounds of both times: whichever leaves fewer is read whole, and the other looked up.
if crossed then
  local from, from_low, from_high = order, low, high
  if counted(other, other_low, other_high) < counted(order, low, high) then
    from, from_low, from_high = other, other_low, other_high
  end
  local found = {}
  for _, name in ipairs(names) do
    local mine, theirs = shelf_key(order, place, name), shelf_key(other, place, name)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', shelf_key(from, place, name), from_low, from_high)) do
      local one, two = tonumber(redis.call('ZSCORE', mine, id)), tonumber(redis.call('ZSCORE', theirs, id))
      local within = function(stamp, least, most)
        return (least == '-inf' or stamp >= tonumber(least)) and (most == '+inf' or stamp < tonumber(string.sub(most, 2)))
      end
      if within(one, low, high) and within(two, other_low, other_high) then found[#found + 1] = { id, one } end
    end
  end
  sorted(found)
  local from_place = offset
  if after ~= '' then
    local last = tonumber(after)
    local function passed(each) return each and ((down and each[2] >= last) or (not down and each[2] <= last)) end
    while passed(found[from_place + 1]) do from_place = from_place + 1 end
  end
  return page(#found, found, from_place)
end

-- The stamp of the job that `offset` others come before: halving what may be it costs the same wherever it lies.
local function start()
  local first, last = math.huge, -math.huge
  for _, name in ipairs(names) do
    local shelf = shelf_key(order, place, name)
    local ends = { redis.call('ZRANGE', shelf, 0, 0, 'WITHSCORES')[2], redis.call('ZRANGE', shelf, -1, -1, 'WITHSCORES')[2] }
    if ends[1] then first, last = math.min(first, tonumber(ends[1])), math.max(last, tonumber(ends[2])) end
  end
  while first < last do
    local middle = math.floor((first + last) / 2)
    if down then
      if counted(order, '(' .. plain(middle), high) > offset then first = middle + 1 else last = middle end
    else
      if counted(order, low, plain(middle)) > offset then last = middle else first = middle + 1 end
    end
  end
  return plain(first)
end

local total = counted(order, low, high)
-- A page goes on after the one before, within the bounds.
if after ~= '' then
  local last = tonumber(after)
  if down and (high == '+inf' or last < tonumber(string.sub(high, 2))) then high = '(' .. after end
  if not down and (low == '-inf' or last >= tonumber(low)) then low = '(' .. after end
end
if offset >= total then return { total } end
if offset > 0 then
  if down then high = start() else low = start() end
end
local found = {}
for _, name in ipairs(names) do
  local shelf, part = shelf_key(order, place, name), nil
  if down then
    part = redis.call('ZREVRANGEBYSCORE', shelf, high, low, 'WITHSCORES', 'LIMIT', 0, limit)
  else
    part = redis.call('ZRANGEBYSCORE', shelf, low, high, 'WITHSCORES', 'LIMIT', 0, limit)
  end
  for i = 1, #part, 2 do found[#found + 1] = { part[i], tonumber(part[i + 1]) } end
end
return page(total, sorted(found), 0)
