-- Accept a new job and return the number of its first sending; refuse when too many are pending.
-- ARGV: id, expire-at (unix seconds), now, most pending (0: any), deadline ('': none),
--       field, value, ...
local id, now = ARGV[1], ARGV[3]
if redis.call('EXISTS', job_key(id)) == 1 then
  return 'exists'
end
local most = tonumber(ARGV[4])
local pending = redis.call('ZCARD', QUEUED) + redis.call('ZCARD', index('processing'))
if most > 0 and pending >= most then
  return 'full'
end
redis.call('HSET', job_key(id), unpack(ARGV, 6))
redis.call('EXPIREAT', job_key(id), ARGV[2])
redis.call('ZADD', QUEUED, now, id)
redis.call('ZADD', EXPIRIES, get(id, 'expires_at'), id)
if ARGV[5] ~= '' then
  redis.call('ZADD', DEADLINES, ARGV[5], id)
end
-- Its owner's list lives as long as the last job in it; two of those that have expired go now.
local list = tasks_of(id)
for _, old in ipairs(redis.call('ZRANGE', list, 0, 1)) do
  if redis.call('EXISTS', job_key(old)) == 0 then
    redis.call('ZREM', list, old)
  end
end
redis.call('ZADD', list, get(id, 'created_at'), id)
if redis.call('EXPIRETIME', list) < tonumber(ARGV[2]) then
  redis.call('EXPIREAT', list, ARGV[2])
end
return note_sending(id)
