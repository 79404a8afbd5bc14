-- Say what belongs to a batch. Jobs that ended meanwhile are counted here, the others as they end.
-- ARGV: batch id, now, expire-at (unix seconds), item, its job's id ('': refused), ...
local batch = batch_key(ARGV[1])
if redis.call('EXISTS', batch) == 0 then
  return 0
end
local jobs = 0
for at = 4, #ARGV, 2 do
  redis.call('RPUSH', batch .. ':items', ARGV[at])
  local id = ARGV[at + 1]
  if id ~= '' then
    jobs = jobs + 1
    local status = get(id, 'status')
    if status ~= 'queued' and status ~= 'processing' then
      -- One that is gone was erased meanwhile: nobody need wait for it.
      redis.call('HSET', batch .. ':ends', id, status or 'erased')
    end
  end
end
redis.call('HSET', batch, 'jobs', jobs)
redis.call('EXPIREAT', batch .. ':items', ARGV[3])
redis.call('EXPIREAT', batch .. ':ends', ARGV[3])
complete_batch(ARGV[1], ARGV[2])
return 1
