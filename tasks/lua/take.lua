-- Take from a token bucket, by the server's own clock.
-- KEYS: the bucket.  ARGV: quota, seconds in which it refills, cost.
-- Returns {taken (1 or 0), left, ms until the cost is there, ms until it is full}.
local quota, window, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local held = redis.call('HMGET', KEYS[1], 'left', 'at')
local left = quota
if held[1] then
  left = math.min(quota, tonumber(held[1]) + (now - tonumber(held[2])) * quota / window)
end
-- What costs more than the whole quota is let through by a full bucket, or it never would be.
local price = math.min(cost, quota)
local taken = 0
if left >= price then
  left = left - price
  taken = 1
end
redis.call('HSET', KEYS[1], 'left', tostring(left), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(window * 1000))
local per_ms = quota / window / 1000
local wait = 0
if taken == 0 then
  wait = math.ceil((price - left) / per_ms)
end
return {taken, tostring(left), wait, math.ceil((quota - left) / per_ms)}
