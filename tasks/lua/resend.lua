-- Choose the list of a queued job's next message, and number it.
-- ARGV: id, queue, step ('': as it is), number of the sending that is to be repeated ('': any).
-- Returns the record, as fields and values, or nothing if the job is not queued, or was sent again
-- since that number.
local id = ARGV[1]
if get(id, 'status') ~= 'queued' then
  return {}
end
if ARGV[4] ~= '' and ARGV[4] ~= get(id, 'sending') then
  return {}
end
-- First what a damaged record refuses.
redis.call('HINCRBY', job_key(id), 'sends', 1)
leave_list(id)
redis.call('HSET', job_key(id), 'queue', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', job_key(id), 'step', ARGV[3])
end
note_sending(id)
return redis.call('HGETALL', job_key(id))
