-- Write a new job's record; refuse to overwrite one.
-- KEYS: job, queued index.  ARGV: task id, expire-at (unix seconds), now, field, value, ...
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'exists'
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIREAT', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 'created'
