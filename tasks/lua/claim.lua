-- Take the lease of a job that nobody holds. The attempt is counted here, before the picture is
-- touched.
-- ARGV: id, token, worker, now, lease ms, '1' to heed the record's worker to avoid, error JSON of
--       a job that came too late, its deadline being over.
local id, now = ARGV[1], ARGV[4]
local status = get(id, 'status')
if not status then
  return 'missing'
end
if status ~= 'queued' and status ~= 'processing' then
  count('duplicates_refused')
  return 'final'
end
if redis.call('EXISTS', lease_key(id)) == 1 then
  count('duplicates_refused')
  return 'leased'
end
if status == 'processing' then
  -- Its worker is gone, but nobody has said yet whose fault that was: the reconciler will.
  return 'leased'
end
local deadline = redis.call('ZSCORE', DEADLINES, id)
if deadline and tonumber(deadline) <= tonumber(now) then
  fail(id, now, ARGV[7], false)
  return 'final'
end
if ARGV[6] == '1' and get(id, 'avoid') == ARGV[3] then
  return 'avoid'
end
-- First what a damaged record refuses.
redis.call('HINCRBY', job_key(id), 'attempts', 1)
unqueue(id)
move(id, 'processing', now)
redis.call('SET', lease_key(id), ARGV[2], 'PX', ARGV[5])
count('attempts')
redis.call('HSETNX', job_key(id), 'started_at', now)
redis.call('HSET', job_key(id), 'worker', ARGV[3])
return 'claimed'
