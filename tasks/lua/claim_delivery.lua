-- Take a delivery that is due; should its sender die, it is due again when the claim runs out.
-- ARGV: delivery's id, claim, now, due again at.  Returns 1 if it is ours.
local id, now = ARGV[1], tonumber(ARGV[3])
local due = redis.call('ZSCORE', DELIVERIES_DUE, id)
if not due or tonumber(due) > now then
  return 0
end
if redis.call('HGET', delivery_key(id), 'state') ~= 'pending' then
  redis.call('ZREM', DELIVERIES_DUE, id)
  return 0
end
redis.call('HSET', delivery_key(id), 'claim', ARGV[2])
redis.call('ZADD', DELIVERIES_DUE, ARGV[4], id)
return 1
