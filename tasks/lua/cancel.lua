-- End a job that is not final: at once, whatever its worker is doing (its write will be refused).
-- ARGV: id, now, the only status from which to end it ('': any that is not final).
local id = ARGV[1]
local status = get(id, 'status')
if not status then
  return 'missing'
end
if status ~= 'queued' and status ~= 'processing' then
  return status
end
if ARGV[3] ~= '' and ARGV[3] ~= status then
  return status
end
unqueue(id)
redis.call('DEL', lease_key(id))
move(id, 'canceled', ARGV[2])
redis.call('HSET', job_key(id), 'finished_at', ARGV[2])
publish_end(id)
return 'canceled'
