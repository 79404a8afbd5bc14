-- End a follower as its leader ended. ARGV: id, leader, now, status, field, value, ...
local id = ARGV[1]
if get(id, 'status') ~= 'queued' or get(id, 'leader') ~= ARGV[2] then
  return 0
end
unqueue(id)
move(id, ARGV[4], ARGV[3])
redis.call('HSET', job_key(id), 'finished_at', ARGV[3], unpack(ARGV, 5))
publish_end(id)
return 1
