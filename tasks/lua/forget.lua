-- Drop what is left of a job whose record has expired, from every set that names it.
-- ARGV: id, list it was sent to ('' if unknown).
local id = ARGV[1]
if redis.call('EXISTS', job_key(id)) == 1 then
  return 0
end
for _, status in ipairs({'queued', 'processing', 'succeeded', 'failed', 'canceled'}) do
  redis.call('ZREM', index(status), id)
end
redis.call('ZREM', DUE, id)
redis.call('ZREM', DEADLINES, id)
redis.call('ZREM', DEAD, id)
redis.call('ZREM', EXPIRIES, id)
if ARGV[2] ~= '' then
  redis.call('ZREM', P .. 'sent:' .. ARGV[2], id)
  redis.call('SREM', P .. 'lifted:' .. ARGV[2], id)
end
if redis.call('EXISTS', followers_key(id)) == 1 then
  -- It cannot tell them how it ended: one of them is to run.
  redis.call('ZADD', P .. 'settling', 0, id)
end
return 1
