-- End a job whose time is over, unless it is final: its pictures are about to go.
-- ARGV: id, now, error JSON.
local id = ARGV[1]
local status = get(id, 'status')
if status ~= 'queued' and status ~= 'processing' then
  return 0
end
redis.call('DEL', lease_key(id))
fail(id, ARGV[2], ARGV[3], false)
return 1
