-- Begin a failed or canceled job anew, on an operator's word: its counts start from zero, and it may
-- wait for as long as when it was submitted, but not beyond its pictures' end.
-- ARGV: id, now.
local id = ARGV[1]
local status = get(id, 'status')
if not status then
  return 'missing'
end
if status ~= 'failed' and status ~= 'canceled' then
  return status
end
redis.call('HDEL', job_key(id), 'error', 'finished_at', 'started_at', 'avoid', 'worker', 'step')
redis.call('HSET', job_key(id), 'attempts', 0, 'crashes', 0, 'losses', 0)
redis.call('ZREM', DEAD, id)
move(id, 'queued', ARGV[2])
postpone(id, ARGV[2])
local patience = number(get(id, 'patience'))
if not patience then
  local deadline, created = number(get(id, 'deadline')), number(get(id, 'created_at'))
  patience = deadline and created and deadline - created
end
if patience then
  local latest = number(get(id, 'expires_at')) or math.huge
  local deadline = string.format('%.6f', math.min(tonumber(ARGV[2]) + patience, latest))
  -- The record tells the new deadline; how long that was, the next requeue must still know.
  redis.call('HSET', job_key(id), 'deadline', deadline, 'patience', patience)
  redis.call('ZADD', DEADLINES, deadline, id)
end
return 'requeued'
