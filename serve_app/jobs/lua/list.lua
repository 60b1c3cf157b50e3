-- ARGV: TENANT/OWNER/DIALECT, states (with commas), asc or desc, made after and before in milliseconds ('' for any), the
-- stamp that the page before ended with (''), offset, limit. Returns how many jobs there are, then id and stamp of those
-- of the page.
local down, place, offset, limit = ARGV[3] == 'desc', ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local shelves = {}
for state in string.gmatch(ARGV[2], '[^,]+') do shelves[#shelves + 1] = shelf_key(ARGV[1], state) end

local function counted(from, to)
  local sum = 0
  for _, shelf in ipairs(shelves) do sum = sum + redis.call('ZCOUNT', shelf, from, to) end
  return sum
end

local function plain(stamp) return string.format('%.0f', stamp) end

local low = ARGV[4] ~= '' and plain(tonumber(ARGV[4]) * STAMPS) or '-inf'
local high = ARGV[5] ~= '' and '(' .. plain((tonumber(ARGV[5]) + 1) * STAMPS) or '+inf'
local total = counted(low, high)
if place ~= '' then
  if down then high = '(' .. place else low = '(' .. place end
end

-- The stamp of the job that `offset` others come before: halving what may be it costs the same wherever it lies.
local function start()
  local first, last = math.huge, 0
  for _, shelf in ipairs(shelves) do
    local ends = { redis.call('ZRANGE', shelf, 0, 0, 'WITHSCORES')[2], redis.call('ZRANGE', shelf, -1, -1, 'WITHSCORES')[2] }
    if ends[1] then first, last = math.min(first, tonumber(ends[1])), math.max(last, tonumber(ends[2])) end
  end
  while first < last do
    local middle = math.floor((first + last) / 2)
    if down then
      if counted('(' .. plain(middle), high) > offset then first = middle + 1 else last = middle end
    else
      if counted(low, plain(middle)) > offset then last = middle else first = middle + 1 end
    end
  end
  return plain(first)
end

if offset >= total then return { total } end
if offset > 0 then
  if down then high = start() else low = start() end
end
local found = {}
for _, shelf in ipairs(shelves) do
  local part
  if down then
    part = redis.call('ZREVRANGEBYSCORE', shelf, high, low, 'WITHSCORES', 'LIMIT', 0, limit)
  else
    part = redis.call('ZRANGEBYSCORE', shelf, low, high, 'WITHSCORES', 'LIMIT', 0, limit)
  end
  for i = 1, #part, 2 do found[#found + 1] = { part[i], tonumber(part[i + 1]) } end
end
table.sort(found, function(a, b)
  if down then return a[2] > b[2] end
  return a[2] < b[2]
end)
local page = { total }
for i = 1, math.min(limit, #found) do
  page[#page + 1] = found[i][1]
  page[#page + 1] = plain(found[i][2])
end
return page
