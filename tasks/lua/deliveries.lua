-- Webhook deliveries after their creation, which is part of a job's or batch's end (jobs.lua).
-- The table of their keys is in shared.lua. A record has the fields of `Delivery` in Python, and
-- dispatches   messages that were sent for it
-- dispatched   unix time of the message that waits for a worker; absent if there is none
-- claim        names the attempt that runs; absent if there is none
-- replay_due   1 from a replay until the attempt that it asked for is claimed
--
-- A pending delivery's score in DELIVERIES_DUE is the time from which it may be dispatched: of the
-- next attempt, or when its message or its claim lapses.

local IN_FLIGHT = P .. 'webhooks:in_flight'
local LONG_IN_FLIGHT = P .. 'webhooks:in_flight_slow'
local SLOW_OWNERS = P .. 'webhooks:slow_owners'
local function owner_flight_key(owner) return IN_FLIGHT .. ':' .. owner end
local function host_flight_key(owner, host) return IN_FLIGHT .. ':' .. owner .. '@' .. host end
local function breaker_key(owner, host) return P .. 'webhooks:host:' .. owner .. '@' .. host end

-- The sets that count a delivery of an owner to a host while it is in flight.
local function flights(a)
  return {IN_FLIGHT, owner_flight_key(a.owner), host_flight_key(a.owner, a.host), LONG_IN_FLIGHT}
end

local function is_slow(owner) return redis.call('ZSCORE', SLOW_OWNERS, owner) end

-- How many deliveries of slow owners, or of the others, may be in flight with their full time: those
-- of the slow ones half of the threads. The other threads so become free within seconds, however
-- many owners turn slow at once.
local function long_room(a, slow)
  return math.floor(a.threads / (slow and 2 or 4)) - redis.call('ZCARD', LONG_IN_FLIGHT)
end

-- Notes that a delivery is with the queue or a worker until `lapse`, `long` with its full time.
local function enter_flight(a, long)
  for _, flight in ipairs(flights(a)) do
    if flight ~= LONG_IN_FLIGHT or long then
      redis.call('ZADD', flight, a.lapse, a.id)
      redis.call('EXPIRE', flight, 60)
    end
  end
end

local function leave_flight(a)
  for _, flight in ipairs(flights(a)) do
    redis.call('ZREM', flight, a.id)
  end
end

-- Ends an attempt that has lost its claim: the delivery is in flight no longer, unless a message or
-- another attempt of it is.
local function leave_without_claim(a)
  if not field(delivery_key(a.id), 'claim') and not field(delivery_key(a.id), 'dispatched') then
    leave_flight(a)
  end
end

-- Why one more delivery may not be in flight: -1 if its owner has enough of them to that host, -2 if
-- its owner has as many as it leaves threads to all others; nil if it may. All owners whose receivers
-- were slow lately share the deliveries with their full time.
local function crowded(a)
  for _, flight in ipairs(flights(a)) do
    redis.call('ZREMRANGEBYSCORE', flight, '-inf', a.now)
  end
  redis.call('ZREMRANGEBYSCORE', SLOW_OWNERS, '-inf', a.now)
  if redis.call('ZCARD', host_flight_key(a.owner, a.host)) >= tonumber(a.limit) then
    return -1
  end
  local free = tonumber(a.threads) - redis.call('ZCARD', IN_FLIGHT)
  if is_slow(a.owner) then
    free = math.min(free, long_room(a, true))
  end
  return redis.call('ZCARD', owner_flight_key(a.owner)) >= free and -2 or nil
end

-- Opens the breaker of a host for an owner until a time; never shortens what another attempt asked.
local function open_breaker(breaker, time, seconds)
  if (number(field(breaker, 'until')) or 0) < time then
    redis.call('HSET', breaker, 'until', string.format('%.6f', time))
  end
  redis.call('EXPIRE', breaker, seconds)
end

-- Hands a due delivery over to the queue: the caller sends its message. It is due again at `lapse`,
-- if no worker has claimed it by then.
-- Arguments: id, owner, host, now, lapse, limit (an owner's deliveries to a host in flight), threads
-- (that attempt deliveries).
-- Returns the number of the message, 0 if the delivery is not due, or what `crowded` returns.
commands.dispatch = function(a)
  local due = redis.call('ZSCORE', DELIVERIES_DUE, a.id)
  if not due or tonumber(due) > tonumber(a.now) then
    return 0
  end
  if field(delivery_key(a.id), 'state') ~= 'pending' then
    redis.call('ZREM', DELIVERIES_DUE, a.id)
    return 0
  end
  local refused = crowded(a)
  if redis.call('ZSCORE', IN_FLIGHT, a.id) then
    -- Replayed during an attempt, which holds a thread: the next one begins once that has ended.
    redis.call('ZADD', DELIVERIES_DUE, tonumber(a.now) + 0.5, a.id)
    return 0
  end
  if refused then
    return refused
  end
  local dispatches = redis.call('HINCRBY', delivery_key(a.id), 'dispatches', 1)
  redis.call('HSET', delivery_key(a.id), 'dispatched', a.now)
  redis.call('ZADD', DELIVERIES_DUE, a.lapse, a.id)
  enter_flight(a, is_slow(a.owner))
  return dispatches
end

-- Makes deliveries due later that are due and were not dispatched.
-- Arguments: now, due (a table of ids and times).
commands.postpone = function(a)
  for id, time in pairs(a.due) do
    local due = redis.call('ZSCORE', DELIVERIES_DUE, id)
    if due and tonumber(due) <= tonumber(a.now) then
      redis.call('ZADD', DELIVERIES_DUE, time, id)
    end
  end
end

-- Claims a dispatched delivery for one attempt; a message that comes twice finds it claimed. If
-- the worker dies, it is due again at `lapse`.
-- Arguments: id, owner, host, claim, now, lapse, short_lapse (of an attempt without its full time),
-- threads.
-- Returns nothing if there is no attempt to make; else 1 for a short attempt, 2 for one with its full
-- time, and the record as fields and values in turn: a replay may have changed it since it was read.
commands.claim = function(a)
  local record = delivery_key(a.id)
  if field(record, 'state') ~= 'pending' or redis.call('HDEL', record, 'dispatched') == 0 then
    return {}
  end
  redis.call('HSET', record, 'claim', a.claim)
  redis.call('HDEL', record, 'replay_due')
  redis.call('ZREMRANGEBYSCORE', LONG_IN_FLIGHT, '-inf', a.now)
  local long = redis.call('ZSCORE', LONG_IN_FLIGHT, a.id) or long_room(a, is_slow(a.owner)) > 0
  if not long then
    a.lapse = a.short_lapse
  end
  redis.call('ZADD', DELIVERIES_DUE, a.lapse, a.id)
  enter_flight(a, long)
  return {long and 2 or 1, unpack(redis.call('HGETALL', record))}
end

local function note_slow(a)
  if a.slow_until then
    redis.call('ZADD', SLOW_OWNERS, a.slow_until, a.owner)
    redis.call('EXPIRE', SLOW_OWNERS, 3600)
  end
end

-- Gives a claim up without an outcome.
-- Arguments: id, owner, host, claim, due (when it is due again), slow_until (see `record_attempt`).
-- Returns 1, or 0 if the claim was lost.
commands.release = function(a)
  local record = delivery_key(a.id)
  note_slow(a)
  if field(record, 'claim') ~= a.claim then
    leave_without_claim(a)
    return 0
  end
  redis.call('HDEL', record, 'claim')
  redis.call('ZADD', DELIVERIES_DUE, a.due, a.id)
  leave_flight(a)
  return 1
end

-- Records an attempt, and the state that follows from it. Fenced by the claim: a worker that
-- took too long may add its attempt, and may report that the event arrived, but nothing else. An
-- attempt that ran while a replay was asked for does not take the replay's place.
-- Arguments: id, owner, host, claim, attempt (JSON; none: no attempt), state, due (of the next
-- attempt), reason, outcome (for the metrics), slow_until (time until which its owner counts as
-- slow; none if the attempt was quick).
-- Returns the state, 'late' if the claim was lost, or 'missing'.
commands.record_attempt = function(a)
  local record = delivery_key(a.id)
  count('webhook:' .. a.outcome)
  note_slow(a)
  if redis.call('EXISTS', record) == 0 then
    redis.call('ZREM', DELIVERIES_DUE, a.id)
    leave_without_claim(a)
    return 'missing'
  end
  if a.attempt then
    redis.call('HINCRBY', record, 'attempts', 1)
    redis.call('HINCRBY', record, 'tries', 1)
    redis.call('RPUSH', attempts_key(a.id), a.attempt)
    redis.call('LTRIM', attempts_key(a.id), -50, -1)
    redis.call('EXPIRE', attempts_key(a.id), redis.call('TTL', record))
  end
  local lost = field(record, 'claim') ~= a.claim
  if lost and (a.state ~= 'delivered' or field(record, 'replay_due') == '1') then
    leave_without_claim(a)
    return 'late'
  end
  redis.call('HDEL', record, 'claim', 'dispatched')
  leave_flight(a)
  redis.call('HSET', record, 'state', a.state, 'reason', a.reason)
  if a.state == 'pending' then
    redis.call('ZADD', DELIVERIES_DUE, a.due, a.id)
    return 'pending'
  end
  redis.call('ZREM', DELIVERIES_DUE, a.id)
  if a.state == 'dead' then
    redis.call('ZADD', DELIVERIES_DEAD, a.due, a.id)
  else
    redis.call('ZREM', DELIVERIES_DEAD, a.id)
  end
  return a.state
end

-- Gives a delivery up for an operator. The claim of an attempt that runs is void: its outcome
-- changes nothing, unless the event arrived.
-- Arguments: id.  Returns 1, or 0 if it was neither pending nor dead.
commands.drop = function(a)
  local listed = redis.call('ZREM', DELIVERIES_DUE, a.id)
    + redis.call('ZREM', DELIVERIES_DEAD, a.id)
  if listed == 0 or redis.call('EXISTS', delivery_key(a.id)) == 0 then
    return 0
  end
  redis.call('HDEL', delivery_key(a.id), 'claim', 'dispatched')
  redis.call('HSET', delivery_key(a.id), 'state', 'dropped', 'reason', '')
  return 1
end

-- Sends an event once more under its id, whatever its state: after the attempt that runs, if one
-- does. A message that waits for a worker serves for it.
-- Arguments: id, now.  Returns 1, or 0 if there is no such delivery.
commands.replay = function(a)
  local record = delivery_key(a.id)
  if redis.call('EXISTS', record) == 0 then
    return 0
  end
  redis.call('HDEL', record, 'claim')
  redis.call('HSET', record, 'state', 'pending', 'tries', 0, 'reason', '', 'replayed', 1, 'replay_due', 1)
  redis.call('ZREM', DELIVERIES_DEAD, a.id)
  if not field(record, 'dispatched') then
    redis.call('ZADD', DELIVERIES_DUE, a.now, a.id)
  end
  return 1
end

-- Counts a failure of a host for an owner; from the threshold on, each opens the breaker for longer.
-- Arguments: owner, host, now, threshold, first, last (seconds), memory (seconds).
commands.record_failure = function(a)
  local breaker = breaker_key(a.owner, a.host)
  local more = redis.call('HINCRBY', breaker, 'failures', 1) - tonumber(a.threshold)
  local open = more < 0 and 0 or tonumber(a.first) * 2 ^ math.min(more, 10)
  open_breaker(breaker, tonumber(a.now) + math.min(open, tonumber(a.last)), a.memory)
end

-- Opens the breaker of a host for an owner.
-- Arguments: owner, host, until, memory (seconds).
commands.pause_host = function(a)
  open_breaker(breaker_key(a.owner, a.host), tonumber(a['until']), a.memory)
end

-- Notes that a target of an owner has answered 410; the owner's latest ones are kept.
-- Arguments: key, target, now, most, seconds.
commands.disable_target = function(a)
  redis.call('ZADD', a.key, a.now, a.target)
  redis.call('ZREMRANGEBYRANK', a.key, 0, -1 - tonumber(a.most))
  redis.call('EXPIRE', a.key, a.seconds)
end

record_of = function(a) return a.id and delivery_key(a.id) end
counters = {record_attempt = {'attempts', 'tries'}, dispatch = {'dispatches'}}
for _, name in ipairs({'postpone', 'release', 'record_attempt', 'drop'}) do
  even_if_full[name] = true
end
