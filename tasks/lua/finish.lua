-- The final write, fenced: only the lease's owner may make it, and only once.
-- ARGV: id, token, now, status, field, value, ...
local id = ARGV[1]
if redis.call('GET', lease_key(id)) ~= ARGV[2] or get(id, 'status') ~= 'processing' then
  count('duplicates_refused')
  return 'lost'
end
redis.call('DEL', lease_key(id))
move(id, ARGV[4], ARGV[3])
redis.call('HSET', job_key(id), 'finished_at', ARGV[3], unpack(ARGV, 5))
publish_end(id)
return 'finished'
