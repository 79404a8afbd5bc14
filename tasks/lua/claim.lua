-- Take the lease of a job that nobody holds. The attempt is counted here, before the picture is
-- touched, so that a picture which kills its worker is counted too.
-- KEYS: job, lease, queued index, processing index, failed index.
-- ARGV: task id, token, worker, now, lease ms, most attempts, error JSON of a poison job.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then
  return 'missing'
end
if status ~= 'queued' and status ~= 'processing' then
  return 'final'
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 'leased'
end
local attempts = tonumber(redis.call('HGET', KEYS[1], 'attempts') or '0')
redis.call('ZREM', KEYS[3], ARGV[1])
if attempts >= tonumber(ARGV[6]) then
  redis.call('HSET', KEYS[1], 'status', 'failed', 'error', ARGV[7], 'finished_at', ARGV[4])
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('ZADD', KEYS[5], ARGV[4], ARGV[1])
  return 'exhausted'
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[5])
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[4])
redis.call('HSET', KEYS[1], 'status', 'processing', 'worker', ARGV[3])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
return 'claimed'
