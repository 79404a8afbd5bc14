-- Fail a queued job whose deadline is over.
-- ARGV: id, now, error JSON.
local id = ARGV[1]
if get(id, 'status') ~= 'queued' then
  redis.call('ZREM', DEADLINES, id)
  return 0
end
local deadline = redis.call('ZSCORE', DEADLINES, id)
if not deadline or tonumber(deadline) > tonumber(ARGV[2]) or follows_running(id) then
  return 0
end
fail(id, ARGV[2], ARGV[3], false)
return 1
