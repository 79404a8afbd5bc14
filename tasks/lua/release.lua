-- Put a processing job back into the queue: by its owner (token given), or, with an empty token,
-- by the reconciler, which may do so only when no lease is left.
-- KEYS: job, lease, processing index, queued index.  ARGV: task id, token, now.
if redis.call('HGET', KEYS[1], 'status') ~= 'processing' then
  return 0
end
local holder = redis.call('GET', KEYS[2]) or ''
if holder ~= ARGV[2] then
  return 0
end
if ARGV[2] ~= '' then
  -- Given back on purpose: the run was cut short by no fault of the picture's.
  redis.call('HINCRBY', KEYS[1], 'attempts', -1)
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'status', 'queued')
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
return 1
