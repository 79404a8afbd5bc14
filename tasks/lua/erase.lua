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
for _, delivery in ipairs(redis.call('LRANGE', P .. 'deliveries:' .. id, 0, -1)) do
  redis.call('ZREM', DELIVERIES_DUE, delivery)
  redis.call('ZREM', DELIVERIES_DEAD, delivery)
  redis.call('DEL', delivery_key(delivery), attempts_key(delivery))
end
redis.call('DEL', P .. 'deliveries:' .. id)
redis.call('DEL', lease_key(id), job_key(id))
if status == 'queued' or status == 'processing' then
  -- Begun anew since it was canceled: whoever waits for it need wait no longer.
  announce(id)
end
return 1
