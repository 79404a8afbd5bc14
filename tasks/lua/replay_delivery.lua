-- Send an event once more, whatever came of it before; under its old id.
-- ARGV: delivery's id, now.  Returns 1, or 0 if it is not known any more.
local id = ARGV[1]
if redis.call('EXISTS', delivery_key(id)) == 0 then
  return 0
end
redis.call('HDEL', delivery_key(id), 'claim')
redis.call('HSET', delivery_key(id), 'state', 'pending', 'tries', 0, 'reason', '', 'replayed', 1)
redis.call('ZREM', DELIVERIES_DEAD, id)
redis.call('ZADD', DELIVERIES_DUE, ARGV[2], id)
return 1
