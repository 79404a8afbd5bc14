-- Choose the list of a queued job's next message, and number it.
-- ARGV: id, queue, priority.  Returns {queue, priority, sends}, or nothing if it isn't queued.
local id = ARGV[1]
if get(id, 'status') ~= 'queued' then
  return {}
end
redis.call('ZREM', P .. 'sent:' .. list_of(id), id)
redis.call('HSET', job_key(id), 'queue', ARGV[2], 'priority', ARGV[3])
note_sending(id)
return {ARGV[2], ARGV[3], redis.call('HINCRBY', job_key(id), 'sends', 1)}
