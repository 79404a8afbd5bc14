-- Erase a job: its record, and every set that names it. What still runs for it finds neither its
-- lease nor its record, so nothing that it writes counts.
-- ARGV: id.  Returns 1, or 0 if there was no record.
local id = ARGV[1]
local status = get(id, 'status')
if not status then
  return 0
end
unqueue(id)
redis.call('ZREM', index(status), id)
redis.call('ZREM', DEAD, id)
redis.call('ZREM', EXPIRIES, id)
redis.call('ZREM', tasks_of(id), id)
end_twin(id)
redis.call('DEL', lease_key(id), job_key(id))
if status == 'queued' or status == 'processing' then
  -- Begun anew since it was canceled: whoever waits for it need wait no longer.
  publish_end(id)
end
return 1
