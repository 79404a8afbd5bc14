-- Record a job that is final from its beginning: its result was that of an equal one.
-- ARGV: id, expire-at (unix seconds), now, field, value, ...
local id = ARGV[1]
if is_taken(id) then
  return 'exists'
end
redis.call('HSET', job_key(id), unpack(ARGV, 4))
keep(id, ARGV[2])
redis.call('ZADD', index(get(id, 'status')), ARGV[3], id)
publish_end(id)
return 'created'
