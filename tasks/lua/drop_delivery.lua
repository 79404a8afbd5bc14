-- Give a delivery up on an operator's word, also while an attempt at it runs: its claim is void, so
-- that its outcome settles nothing, unless the event arrived.
-- ARGV: delivery's id.  Returns 1, or 0 if it was not waiting and not dead.
local id = ARGV[1]
local waited = redis.call('ZREM', DELIVERIES_DUE, id) + redis.call('ZREM', DELIVERIES_DEAD, id)
if waited == 0 or redis.call('EXISTS', delivery_key(id)) == 0 then
  return 0
end
redis.call('HDEL', delivery_key(id), 'claim')
redis.call('HSET', delivery_key(id), 'state', 'dropped', 'reason', '')
return 1
