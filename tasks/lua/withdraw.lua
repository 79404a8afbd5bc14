-- Settle whether a job was recorded, where the answer to its `create` is missing: its record; or
-- nothing, and then it never will be, even if that `create` is still on its way.
-- ARGV: id, seconds for which one that is late is refused.
local record = redis.call('HGETALL', job_key(ARGV[1]))
if #record == 0 then
  redis.call('SET', withdrawn_key(ARGV[1]), 1, 'EX', ARGV[2])
end
return record
