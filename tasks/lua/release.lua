-- Put a processing job back: a loss, which is nobody's fault. By its owner (its token given), by the
-- owner's parent (the beginning of the token, which names its process), or by the reconciler (no
-- token) once no lease is left.
-- ARGV: id, token or its beginning, now, most losses, error JSON of a job lost too often, worker to avoid ('': none),
--       seconds of the first pause, longest pause.
local id, now = ARGV[1], tonumber(ARGV[3])
local status = get(id, 'status')
if status ~= 'processing' then
  if status and redis.call('ZSCORE', index(status), id) then
    redis.call('ZREM', index('processing'), id)
  end
  return 'none'
end
local token = redis.call('GET', lease_key(id)) or ''
if token:sub(1, #ARGV[2]) ~= ARGV[2] or (ARGV[2] == '' and token ~= '') then
  return 'none'
end
-- First what a damaged record refuses.
local losses = redis.call('HINCRBY', job_key(id), 'losses', 1)
redis.call('DEL', lease_key(id))
count('losses')
if losses >= tonumber(ARGV[4]) then
  fail(id, ARGV[3], ARGV[5], true)
  return 'dead'
end
if ARGV[6] ~= '' then
  redis.call('HSET', job_key(id), 'avoid', ARGV[6])
end
move(id, 'queued', ARGV[3])
-- The first loss costs no pause; a second one may be a sign of something that takes time.
local pause = 0
if losses > 1 then
  pause = math.min(tonumber(ARGV[7]) * 2 ^ (losses - 2), tonumber(ARGV[8]))
end
postpone(id, now + pause)
return 'queued'
