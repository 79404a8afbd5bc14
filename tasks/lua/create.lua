-- Accept a new job and return the number of its first sending, or 'joined:' and the equal job that
-- it follows. Nothing is written and 'exists' returned if the id is taken, 'full' if too
-- many are pending, 'known:' and a job if that one has the very result.
-- ARGV: id, expire-at (unix seconds), now, most pending (0: any), deadline ('': none),
--       field, value, ...
local id, now = ARGV[1], ARGV[3]

local function given(from, name)
  for i = from, #ARGV, 2 do
    if ARGV[i] == name then
      return ARGV[i + 1]
    end
  end
end

if is_taken(id) then
  return 'exists'
end
local known = given(6, 'cache_key')
known = known and redis.call('GET', cached_key(known))
if known then
  return 'known:' .. known
end
local most = tonumber(ARGV[4])
local jobs = redis.call('ZCARD', QUEUED) + redis.call('ZCARD', index('processing'))
if most > 0 and jobs >= most then
  return 'full'
end
redis.call('HSET', job_key(id), unpack(ARGV, 6))
keep(id, ARGV[2])
redis.call('ZADD', QUEUED, now, id)
if ARGV[5] ~= '' then
  redis.call('ZADD', DEADLINES, ARGV[5], id)
end
local leader = join(id, now)
if leader then
  count('joined')
  return 'joined:' .. leader
end
return note_sending(id)
