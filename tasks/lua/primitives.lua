-- Small atomic steps on keys that the caller names.
--
-- key                         type     what for                                       expiry
-- rmbg:idempotency:<digest>   string   which task an Idempotency-Key stands for       24 h
-- rmbg:rate:<policy>:<owner>  hash     a token bucket: tokens `left` at the time `at` when full
-- rmbg:keys                   hash     an owner's id by the SHA-256 of its key        none
-- rmbg:owner:<id>             hash     an owner, and the SHA-256 of its key           none
-- rmbg:upload:<id>            hash     the record of a resumable upload               the upload's
-- rmbg:upload:<id>:lock       string   the token of the request that writes to it     4 s, renewed

local commands = {}

-- Reads the hash that a field of another hash names.
-- Arguments: index (the other hash), field, prefix (of the hash's key, before that name).
-- Returns its fields and values in turn; nothing if there is no such field.
commands.named_hash = function(a)
  local name = redis.call('HGET', a.index, a.field)
  return name and redis.call('HGETALL', a.prefix .. name) or {}
end

-- Puts a value in place of the expected one; without a new value the key is deleted.
-- Arguments: key, expected, value, seconds (of the new value's life).  Returns 1 if it did.
commands.compare_and_set = function(a)
  if redis.call('GET', a.key) ~= a.expected then
    return 0
  end
  if not a.value then
    return redis.call('DEL', a.key)
  end
  redis.call('SET', a.key, a.value, 'EX', a.seconds)
  return 1
end

-- Prolongs the life of a key that has the expected value.
-- Arguments: key, expected, ms.  Returns 1 if it did.
commands.compare_and_expire = function(a)
  if redis.call('GET', a.key) ~= a.expected then
    return 0
  end
  return redis.call('PEXPIRE', a.key, a.ms)
end

-- Writes fields of a hash that exists, if the caller still holds its lock.
-- Arguments: key, lock (its key), token, fields.  Returns 1 if it did.
commands.update_locked = function(a)
  if redis.call('GET', a.lock) ~= a.token or redis.call('EXISTS', a.key) == 0 then
    return 0
  end
  redis.call('HSET', a.key, unpack(flat(a.fields)))
  return 1
end

-- Takes tokens from a bucket, by the server's clock: all of them or none.
-- Arguments: key, quota (of a full bucket), seconds (in which an empty one fills), cost.
-- Returns 1 or 0, the tokens left, ms until the cost is there, ms until the bucket is full.
commands.token_bucket = function(a)
  local quota, seconds = tonumber(a.quota), tonumber(a.seconds)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
  local bucket = redis.call('HMGET', a.key, 'left', 'at')
  local left = quota
  if bucket[1] then
    left = math.min(quota, tonumber(bucket[1]) + (now - tonumber(bucket[2])) * quota / seconds)
  end
  -- A full bucket lets through what costs more than the quota: otherwise it would never pass.
  local price = math.min(tonumber(a.cost), quota)
  local allowed = left >= price
  if allowed then
    left = left - price
  end
  redis.call('HSET', a.key, 'left', tostring(left), 'at', string.format('%.6f', now))
  redis.call('PEXPIRE', a.key, math.ceil(seconds * 1000))
  local per_ms = quota / seconds / 1000
  local wait = allowed and 0 or math.ceil((price - left) / per_ms)
  return {allowed and 1 or 0, tostring(left), wait, math.ceil((quota - left) / per_ms)}
end

return dispatch(commands, {
  record = function() return nil end,
  counters = {},
  any_type = {},
})
