-- Prolong a lease that is still ours; a lost one is never taken back.
-- KEYS: lease.  ARGV: token, lease ms.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
