-- Stands in front of each of the other files: names, helpers, and `dispatch`, which runs a command;
-- the commands here are small atomic steps on keys that the caller names.
--
-- ARGV: the command's name, and its arguments as one JSON object. Numbers and times are text in it,
-- as they are in Redis, so that none loses a digit; an argument that is left out is nil. Keys are
-- built here and not declared in KEYS: the service needs one Redis, not a cluster.
-- KEYS: 'rmbg:' behind the prefix of the service (RMBG_REDIS_PREFIX), which stands before every key
-- that is listed here or given as an argument.
--
-- key                             type   what for                                        expiry
-- rmbg:counters                   hash   counts since the service's first day            none
-- rmbg:delivery:<id>              hash   a webhook delivery's record                     subject's
-- rmbg:delivery:<id>:attempts     list   its latest 50 attempts, as JSON                 subject's
-- rmbg:deliveries:<subject>       list   ids of a task's or batch's deliveries           subject's
-- rmbg:deliveries:due             zset   pending deliveries by the time to dispatch them none
-- rmbg:deliveries:dead            zset   deliveries given up, by the time of that        none
-- rmbg:webhooks:in_flight         zset   dispatched deliveries, by their lapse           60 s
-- rmbg:webhooks:in_flight_slow    zset   those whose attempt has its full time           60 s
-- rmbg:webhooks:slow_owners       zset   owners, by when they count as slow no more      1 h
-- rmbg:webhooks:in_flight:<owner> zset   an owner's of them                              60 s
-- rmbg:webhooks:in_flight:<owner>@<host>  zset  an owner's of them to a host             60 s
-- rmbg:webhooks:host:<owner>@<host>  hash  an owner's breaker of a host: failures, until  1 h
-- rmbg:webhooks:gone:<owner>      zset   an owner's targets that answered 410, by time   30 days
-- rmbg:retention:clock            hash   the sweeper's last pass, since when the clock is doubted none
-- rmbg:idempotency:<digest>       string which task an Idempotency-Key stands for        24 h
-- rmbg:rate:<policy>:<caller>     hash   a token bucket: tokens `left` at the time `at`  when full
-- rmbg:keys                       hash   an owner's id by the SHA-256 of its key         none
-- rmbg:owner:<id>                 hash   an owner, and the SHA-256 of its key            none
-- rmbg:upload:<id>                hash   the record of a resumable upload                its own
-- rmbg:upload:<id>:lock           string the token of the request that writes to it      4 s

local PREFIX = KEYS[1]:sub(1, -6)

-- With a prefix, each call gets it before its key: the first argument, and all of some commands.
local redis = redis
if PREFIX ~= '' then
  local server = redis
  local only_keys = {DEL = true, EXISTS = true}
  local function with(call)
    return function(command, key, ...)
      if not key then  -- TIME
        return call(command)
      end
      local others = {...}
      for place, other in ipairs(only_keys[command] and others or {}) do
        others[place] = PREFIX .. other
      end
      return call(command, PREFIX .. key, unpack(others))
    end
  end
  redis = {call = with(server.call), pcall = with(server.pcall), error_reply = server.error_reply}
end

local P = 'rmbg:'
local COUNTERS = P .. 'counters'
local DELIVERIES_DUE, DELIVERIES_DEAD = P .. 'deliveries:due', P .. 'deliveries:dead'
local function delivery_key(id) return P .. 'delivery:' .. id end
local function attempts_key(id) return P .. 'delivery:' .. id .. ':attempts' end
local function deliveries_key(subject) return P .. 'deliveries:' .. subject end

local function count(name)
  redis.call('HINCRBY', COUNTERS, name, 1)
end

-- A field of a hash; nil where there is none, or where the key holds another type.
local function field(key, name)
  local value = redis.pcall('HGET', key, name)
  return type(value) == 'string' and value or nil
end

-- A finite number, or nil. Lua reads 'nan' and 'inf' as numbers too.
local function number(text)
  local value = tonumber(text or nil)
  return value and value - value == 0 and value or nil
end

-- Whether the time from `since` to `now` counts, so that what began then may end by it. It does not
-- if the clock has jumped in between: see `ClockCheck` in Python, which writes this key and has the
-- same limit in seconds.
local MAX_CLOCK_STEP = 600
local function has_passed(since, now)
  local clock = P .. 'retention:clock'
  local last, doubted = number(field(clock, 'last')), number(field(clock, 'doubted_since'))
  if last and math.abs(tonumber(now) - last) > MAX_CLOCK_STEP then
    return false
  end
  return not doubted or (number(since) or 0) >= doubted
end

-- A JSON object or array as a table; an empty table for any other text.
local function decode(text)
  local readable, value = pcall(cjson.decode, text)
  return readable and type(value) == 'table' and value or {}
end

-- Marks the request of an Idempotency-Key as accepted, unless its reservation has expired.
-- reservation: key, expected, value and seconds; nil without a key.
local function keep_reservation(reservation)
  if reservation and redis.call('GET', reservation.key) == reservation.expected then
    redis.call('SET', reservation.key, reservation.value, 'EX', reservation.seconds)
  end
end

-- The arguments of HSET for a table of fields.
local function flat(fields)
  local list = {}
  for name, value in pairs(fields) do
    list[#list + 1] = name
    list[#list + 1] = value
  end
  return list
end

-- The error with which Redis would refuse a record, or nil.
local function damage(record, counters)
  local kind = redis.call('TYPE', record)['ok']
  if kind ~= 'hash' and kind ~= 'none' then
    return 'WRONGTYPE Operation against a key holding the wrong kind of value'
  end
  for _, counter in ipairs(kind == 'hash' and counters or {}) do
    local value = field(record, counter)
    if value and value ~= '0' and not (value:match('^%-?[1-9]%d*$') and #value < 16) then
      return 'ERR hash value is not an integer: ' .. counter
    end
  end
end

-- What a file adds to: the functions by name; by command, the fields of its record that it adds to;
-- the commands that take a record of any type, since they do not read it; those that a full Redis
-- lets pass, since they free memory or are on the way to that; and from the arguments to the key of
-- the record that a command changes, or nil.
local commands, counters, any_type, even_if_full = {}, {}, {}, {}
local function record_of() end

-- Runs the command that ARGV names. The one rule on damaged records is here. Redis keeps what a
-- script wrote before it failed, so that nothing may fail once a command writes: before it runs,
-- the record that it changes must be a hash, and the counters that it adds to must be integers.
-- All else that a record holds is read by `field`, `number` and `decode`, which fail on nothing.
local function dispatch()
  local name, arguments = ARGV[1], cjson.decode(ARGV[2])
  local record = not any_type[name] and record_of(arguments)
  local refused = record and damage(record, counters[name] or {})
  if refused then
    return redis.error_reply(refused)
  end
  if even_if_full[name] then
    -- Redis refuses what takes memory while it is full, unless the script has begun to write before:
    -- the first write takes none, and so all others pass.
    redis.call('DEL', P .. 'none')
  end
  return commands[name](arguments)
end

-- Says whether the time between two unix times counts.
-- Arguments: since, now.  Returns 1 if it does.
commands.has_passed = function(a)
  return has_passed(a.since, a.now) and 1 or 0
end

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

-- Sets a key that does not exist: a lock, or a mark that something was done.
-- Arguments: key, value, ms (of its life).  Returns 1 if it did.
commands.set_absent = function(a)
  return redis.call('SET', a.key, a.value, 'NX', 'PX', a.ms) and 1 or 0
end

-- Gives a member of a sorted set another score, if it is still one.
-- Arguments: key, member, score.
commands.move_member = function(a)
  redis.call('ZADD', a.key, 'XX', a.score, a.member)
end

-- Adds to a count since the service's first day.
-- Arguments: name, number.
commands.add_to_counter = function(a)
  redis.call('HINCRBY', COUNTERS, a.name, a.number)
end

-- Notes the time of the sweeper's last pass; see `ClockCheck` in Python.
-- Arguments: now, doubted_since (none: it is not doubted).
commands.note_clock = function(a)
  redis.call('HSET', P .. 'retention:clock', 'last', a.now)
  if a.doubted_since then
    redis.call('HSET', P .. 'retention:clock', 'doubted_since', a.doubted_since)
  else
    redis.call('HDEL', P .. 'retention:clock', 'doubted_since')
  end
end

for _, name in ipairs({'set_absent', 'move_member', 'add_to_counter', 'note_clock'}) do
  even_if_full[name] = true
end

-- Prolongs the life of a key that has the expected value.
-- Arguments: key, expected, ms.  Returns 1 if it did.
commands.compare_and_expire = function(a)
  if redis.call('GET', a.key) ~= a.expected then
    return 0
  end
  return redis.call('PEXPIRE', a.key, a.ms)
end

-- Takes tokens from a bucket, by the server's clock: all of them or none. What costs more than the
-- quota in all needs a full bucket, or it would never pass; the rest of its cost becomes a debt,
-- which has to refill before anything else passes. A negative cost gives tokens back.
-- Arguments: key, quota (of a full bucket), seconds (in which an empty one fills), cost, spent (what
-- the same request has taken before).
-- Returns 1 or 0, the tokens left, ms until the cost is there, ms until the bucket is full.
commands.token_bucket = function(a)
  local quota, seconds = tonumber(a.quota), tonumber(a.seconds)
  local cost, spent = tonumber(a.cost), tonumber(a.spent or 0)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
  local bucket = redis.call('HMGET', a.key, 'left', 'at')
  local left = quota
  if bucket[1] then
    -- A clock that was set back since then takes nothing.
    local since = math.max(0, now - tonumber(bucket[2]))
    left = math.min(quota, tonumber(bucket[1]) + since * quota / seconds)
  end
  local lacking = math.min(spent + cost, quota) - spent - left
  local allowed = cost < 0 or lacking <= 0
  if allowed then
    left = math.min(quota, left - cost)
  end
  local per_ms = quota / seconds / 1000
  local full = math.ceil((quota - left) / per_ms)
  redis.call('HSET', a.key, 'left', tostring(left), 'at', string.format('%.6f', now))
  redis.call('PEXPIRE', a.key, math.max(full, math.ceil(seconds * 1000)))
  return {allowed and 1 or 0, tostring(left), allowed and 0 or math.ceil(lacking / per_ms), full}
end
