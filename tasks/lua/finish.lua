-- The final write, fenced: only the lease's owner may make it, and only once.
-- KEYS: job, lease, processing index, final index.
-- ARGV: task id, token, now, channel, field, value, ...
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return 'lost'
end
if redis.call('HGET', KEYS[1], 'status') ~= 'processing' then
  return 'lost'
end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
redis.call('PUBLISH', ARGV[4], 'done')
return 'finished'
