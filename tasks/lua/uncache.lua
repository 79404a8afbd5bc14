-- Forget a cached job whose result cannot be copied, unless another took its place.
-- ARGV: cache key, id.
if redis.call('GET', cached_key(ARGV[1])) == ARGV[2] then
  redis.call('DEL', cached_key(ARGV[1]))
end
