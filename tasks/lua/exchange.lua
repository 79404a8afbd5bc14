-- Put a value in another's place, if that is still there; '' removes it.
-- ARGV: key, value there, new value, seconds that it stays.
if redis.call('GET', ARGV[1]) ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  return redis.call('DEL', ARGV[1])
end
redis.call('SET', ARGV[1], ARGV[3], 'EX', ARGV[4])
return 1
