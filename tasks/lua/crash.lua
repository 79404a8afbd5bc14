-- A worker's child died, or was killed at the hard limit, over a job: the parent says so. Fenced
-- by the beginning of the lease's token, which names the worker and the child's pid.
-- ARGV: id, beginning of the token, now, most crashes, error JSON of a poison job.
local id = ARGV[1]
local token = redis.call('GET', lease_key(id)) or ''
if get(id, 'status') ~= 'processing' or token:sub(1, #ARGV[2]) ~= ARGV[2] then
  return 'none'
end
-- First what a damaged record refuses.
local crashes = redis.call('HINCRBY', job_key(id), 'crashes', 1)
redis.call('DEL', lease_key(id))
count('crashes')
if crashes >= tonumber(ARGV[4]) then
  fail(id, ARGV[3], ARGV[5], true)
  return 'dead'
end
move(id, 'queued', ARGV[3])
-- Celery gives the message back itself; should it not, the reconciler finds it missing.
note_sending(id)
return 'queued'
