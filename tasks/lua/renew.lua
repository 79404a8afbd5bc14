-- Prolong a lease that is still ours; a lost one is never taken back.
-- ARGV: id, token, lease ms.
local id = ARGV[1]
if redis.call('GET', lease_key(id)) ~= ARGV[2] or get(id, 'status') ~= 'processing' then
  return 0
end
return redis.call('PEXPIRE', lease_key(id), ARGV[3])
