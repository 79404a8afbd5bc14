-- Forget a list of which nobody waits for a message.
-- ARGV: the list, as `<queue>|<step>`.
if redis.call('EXISTS', P .. 'sent:' .. ARGV[1]) == 1 then
  return 0
end
redis.call('DEL', P .. 'lifted:' .. ARGV[1])
return redis.call('SREM', P .. 'lists', ARGV[1])
