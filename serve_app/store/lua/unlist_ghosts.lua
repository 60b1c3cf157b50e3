-- ARGV: tenant/owner, index of a listing ('' for none), shelves (comma-separated), id, ... Removes ids from an owner's listings
-- whose job has no record. Returns 1.
for i = 4, #ARGV do
  if redis.call('HEXISTS', job_key(ARGV[i]), 'tenant') == 0 then
    redis.call('ZREM', key('index:' .. ARGV[1]), ARGV[i])
    for shelf in string.gmatch(ARGV[3], '[^,]+') do
      for _, order in ipairs({ 'made', 'ended' }) do redis.call('ZREM', shelf_key(order, ARGV[2], shelf), ARGV[i]) end
    end
    unlink_ghost(ARGV[i])
    unlink_record(ARGV[i])
  end
end
return 1
