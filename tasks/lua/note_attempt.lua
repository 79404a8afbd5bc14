-- Write down what came of an attempt, and what follows from it. Fenced by the claim: a sender that
-- took too long may add its line, and may say that the event arrived, but settles nothing else.
-- ARGV: delivery's id, claim, attempt as JSON ('': none was made), state that follows, due again at,
--       reason, outcome for the metrics.
local id = ARGV[1]
if redis.call('EXISTS', delivery_key(id)) == 0 then
  count('webhook:' .. ARGV[7])
  redis.call('ZREM', DELIVERIES_DUE, id)
  return 'missing'
end
if ARGV[3] ~= '' then
  -- First what a damaged record refuses; adding nothing tells it too.
  redis.call('HINCRBY', delivery_key(id), 'tries', 0)
  redis.call('HINCRBY', delivery_key(id), 'attempts', 1)
  redis.call('HINCRBY', delivery_key(id), 'tries', 1)
  redis.call('RPUSH', attempts_key(id), ARGV[3])
  redis.call('LTRIM', attempts_key(id), -50, -1)
  redis.call('EXPIRE', attempts_key(id), redis.call('TTL', delivery_key(id)))
end
count('webhook:' .. ARGV[7])
if redis.call('HGET', delivery_key(id), 'claim') ~= ARGV[2] and ARGV[4] ~= 'delivered' then
  return 'late'
end
redis.call('HDEL', delivery_key(id), 'claim')
redis.call('HSET', delivery_key(id), 'state', ARGV[4], 'reason', ARGV[6])
if ARGV[4] == 'pending' then
  redis.call('ZADD', DELIVERIES_DUE, ARGV[5], id)
  return 'pending'
end
redis.call('ZREM', DELIVERIES_DUE, id)
if ARGV[4] == 'dead' then
  redis.call('ZADD', DELIVERIES_DEAD, ARGV[5], id)
else
  redis.call('ZREM', DELIVERIES_DEAD, id)
end
return ARGV[4]
