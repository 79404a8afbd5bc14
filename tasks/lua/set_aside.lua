-- Take a queued job whose record cannot be read off the lists, where it would stand in the others'
-- way, and look at it again later. The record itself is not asked: it may be of any kind.
-- ARGV: id, when.
local id = ARGV[1]
if not redis.call('ZSCORE', QUEUED, id) then
  return 0
end
for _, list in ipairs(redis.call('SMEMBERS', P .. 'lists')) do
  redis.call('ZREM', P .. 'sent:' .. list, id)
  redis.call('SREM', P .. 'lifted:' .. list, id)
end
redis.call('ZADD', DUE, ARGV[2], id)
return 1
