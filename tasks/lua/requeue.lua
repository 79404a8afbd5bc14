-- Begin a failed or canceled job anew, on an operator's word: its counts start from zero.
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
return 'requeued'
