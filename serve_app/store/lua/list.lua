-- ARGV: index (TENANT/OWNER/DIALECT, plus @FILE for jobs of one file), shelves (comma-separated), order (made or ended), asc or
-- desc, made after and before, ended after and before (milliseconds, '' for any), last stamp of the previous page ('' for none),
-- offset, limit, budget. Returns {total, stamp to go on after, jobs skipped for the offset}, then id and stamp of each job.
-- Only filters on both times, with more than `budget` matches of either, end early: the stamp is '' where there is no more.
local index, order, descending = ARGV[1], ARGV[3], ARGV[4] == 'desc'
local after, offset, limit, budget = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local names = {}
for name in string.gmatch(ARGV[2], '[^,]+') do names[#names + 1] = name end

local function integer(stamp) return string.format('%.0f', stamp) end

-- Lower and upper stamp of a time filter, and whether there is one. A filter by end time excludes jobs that have not ended.
local function bounds(which)
  local first = which == 'made' and 5 or 7
  local low, high = '-inf', '+inf'
  if ARGV[first] ~= '' then low = integer(tonumber(ARGV[first]) * STAMPS) end
  if ARGV[first + 1] ~= '' then high = '(' .. integer((tonumber(ARGV[first + 1]) + 1) * STAMPS) end
  if which == 'ended' and low == '-inf' and high ~= '+inf' then low = '0' end
  return low, high, low ~= '-inf' or high ~= '+inf'
end

local function count_between(which, low, high)
  local sum = 0
  for _, name in ipairs(names) do sum = sum + redis.call('ZCOUNT', shelf_key(which, index, name), low, high) end
  return sum
end

-- `rows` are pairs {id, stamp}.
local function sorted(rows)
  table.sort(rows, function(a, b)
    if descending then return a[2] > b[2] end
    return a[2] < b[2]
  end)
  return rows
end

local function page(total, rows, skip)
  local reply = { total, '', 0 }
  for i = skip + 1, math.min(skip + limit, #rows) do
    reply[#reply + 1] = rows[i][1]
    reply[#reply + 1] = integer(rows[i][2])
  end
  return reply
end

local low, high = bounds(order)
local other = order == 'made' and 'ended' or 'made'
local other_low, other_high, by_both_times = bounds(other)

local function within(stamp, least, most)
  return stamp and (least == '-inf' or stamp >= tonumber(least)) and (most == '+inf' or stamp < tonumber(string.sub(most, 2)))
end

-- Continue after the previous page, within the filter's bounds.
local function resume_after(last)
  local bound = string.gsub(descending and high or low, '%(', '')
  if descending and (high == '+inf' or last < tonumber(bound)) then high = '(' .. integer(last) end
  if not descending and (low == '-inf' or last >= tonumber(bound)) then low = '(' .. integer(last) end
end

-- Up to `most` rows of a status index in the order of the listing.
local function slice(name, most)
  local shelf, part, rows = shelf_key(order, index, name), nil, {}
  if descending then
    part = redis.call('ZREVRANGEBYSCORE', shelf, high, low, 'WITHSCORES', 'LIMIT', 0, most)
  else
    part = redis.call('ZRANGEBYSCORE', shelf, low, high, 'WITHSCORES', 'LIMIT', 0, most)
  end
  for i = 1, #part, 2 do rows[#rows + 1] = { part[i], tonumber(part[i + 1]), name } end
  return rows
end

-- Both times, and few jobs within one of them: look each of these up in the other index.
local function few_by_both_times(scanned, scan_low, scan_high)
  local rows = {}
  for _, name in ipairs(names) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', shelf_key(scanned, index, name), scan_low, scan_high)) do
      local stamp = tonumber(redis.call('ZSCORE', shelf_key(order, index, name), id))
      local other_stamp = tonumber(redis.call('ZSCORE', shelf_key(other, index, name), id))
      if within(stamp, low, high) and within(other_stamp, other_low, other_high) then rows[#rows + 1] = { id, stamp } end
    end
  end
  sorted(rows)
  local skip = 0
  if after ~= '' then
    local last = tonumber(after)
    local function on_earlier_page(row)
      return row and ((descending and row[2] >= last) or (not descending and row[2] <= last))
    end
    while on_earlier_page(rows[skip + 1]) do skip = skip + 1 end
  end
  return page(#rows, rows, skip + offset)
end

-- The next rows of all status indexes in order, and whether there are more: up to `budget` and no row beyond the end of a slice
-- that was cut off.
local function next_rows()
  local most, rows, frontier = math.max(math.floor(budget / #names), 1), {}, nil
  for _, name in ipairs(names) do
    local part = slice(name, most)
    for _, row in ipairs(part) do rows[#rows + 1] = row end
    local last = #part == most and part[most][2]
    if last and (not frontier or (descending and last > frontier) or (not descending and last < frontier)) then
      frontier = last
    end
  end
  sorted(rows)
  local function beyond(row) return frontier and ((descending and row[2] < frontier) or (not descending and row[2] > frontier)) end
  while #rows > 0 and beyond(rows[#rows]) do rows[#rows] = nil end
  return rows, frontier ~= nil
end

-- Both times, and many jobs within each: walk on in the order of the listing. The total counts jobs that were not looked at.
local function many_by_both_times(by_other)
  if after ~= '' then resume_after(tonumber(after)) end
  local rows, more = next_rows()
  local found, skipped, stamp = {}, 0, ''
  for i, row in ipairs(rows) do
    stamp = row[2]
    if within(tonumber(redis.call('ZSCORE', shelf_key(other, index, row[3]), row[1])), other_low, other_high) then
      if skipped < offset or limit == 0 then skipped = skipped + 1 else found[#found + 1] = row end
    end
    if limit > 0 and #found == limit then
      more = more or i < #rows
      break
    end
  end
  local total = skipped + #found
  if more then
    resume_after(stamp)
    total = total + math.min(by_other, count_between(order, low, high))
  end
  local reply = page(total, found, 0)
  reply[2], reply[3] = more and integer(stamp) or '', skipped
  return reply
end

if by_both_times and #names > 0 then
  local by_order, by_other = count_between(order, low, high), count_between(other, other_low, other_high)
  if math.min(by_order, by_other) > budget then return many_by_both_times(by_other) end
  if by_other < by_order then return few_by_both_times(other, other_low, other_high) end
  return few_by_both_times(order, low, high)
end

-- Stamp of the job after `offset` others, by binary search: the cost does not grow with the offset.
local function stamp_at_offset()
  local first, last = math.huge, -math.huge
  for _, name in ipairs(names) do
    local shelf = shelf_key(order, index, name)
    local ends = { redis.call('ZRANGE', shelf, 0, 0, 'WITHSCORES')[2], redis.call('ZRANGE', shelf, -1, -1, 'WITHSCORES')[2] }
    if ends[1] then first, last = math.min(first, tonumber(ends[1])), math.max(last, tonumber(ends[2])) end
  end
  while first < last do
    local middle = math.floor((first + last) / 2)
    if descending then
      if count_between(order, '(' .. integer(middle), high) > offset then first = middle + 1 else last = middle end
    else
      if count_between(order, low, integer(middle)) > offset then last = middle else first = middle + 1 end
    end
  end
  return integer(first)
end

local total = count_between(order, low, high)
if after ~= '' then resume_after(tonumber(after)) end
if offset >= total then return { total, '', 0 } end
if offset > 0 then
  if descending then high = stamp_at_offset() else low = stamp_at_offset() end
end
local rows = {}
for _, name in ipairs(names) do
  for _, row in ipairs(slice(name, limit)) do rows[#rows + 1] = row end
end
return page(total, sorted(rows), 0)
