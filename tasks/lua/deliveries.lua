-- Webhook deliveries after their creation, which is part of a job's or batch's end (jobs.lua).
-- The table of their keys is in shared.lua. A record has the fields of `Delivery` in Python, and
-- dispatches   messages that were sent for it
-- dispatched   unix time of the message that waits for a worker; absent if there is none
-- claim        names the attempt that runs; absent if there is none
-- replay_due   1 from a replay until the attempt that it asked for is claimed
--
-- A pending delivery's score in DELIVERIES_DUE is the time from which it may be dispatched: of the
-- next attempt, or when its message or its claim lapses.

local function in_flight_key(host) return P .. 'webhooks:in_flight:' .. host end

-- Notes that a delivery is with the queue or a worker until `lapse`.
local function enter_flight(host, id, lapse)
  redis.call('ZADD', in_flight_key(host), lapse, id)
  redis.call('EXPIRE', in_flight_key(host), 60)
end

-- Hands a due delivery over to the queue: the caller sends its message. It is due again at `lapse`,
-- if no worker has claimed it by then.
-- Arguments: id, host, now, lapse, limit (deliveries to a host in flight).
-- Returns the number of the message, 0 if the delivery is not due, or -1 if its host is busy.
commands.dispatch = function(a)
  local due = redis.call('ZSCORE', DELIVERIES_DUE, a.id)
  if not due or tonumber(due) > tonumber(a.now) then
    return 0
  end
  if field(delivery_key(a.id), 'state') ~= 'pending' then
    redis.call('ZREM', DELIVERIES_DUE, a.id)
    return 0
  end
  local flight = in_flight_key(a.host)
  redis.call('ZREMRANGEBYSCORE', flight, '-inf', a.now)
  if not redis.call('ZSCORE', flight, a.id)
    and redis.call('ZCARD', flight) >= tonumber(a.limit) then
    return -1
  end
  local dispatches = redis.call('HINCRBY', delivery_key(a.id), 'dispatches', 1)
  redis.call('HSET', delivery_key(a.id), 'dispatched', a.now)
  redis.call('ZADD', DELIVERIES_DUE, a.lapse, a.id)
  enter_flight(a.host, a.id, a.lapse)
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
-- Arguments: id, host, claim, lapse.  Returns 1 if it was claimed.
commands.claim = function(a)
  local record = delivery_key(a.id)
  if field(record, 'state') ~= 'pending' or redis.call('HDEL', record, 'dispatched') == 0 then
    return 0
  end
  redis.call('HSET', record, 'claim', a.claim)
  redis.call('HDEL', record, 'replay_due')
  redis.call('ZADD', DELIVERIES_DUE, a.lapse, a.id)
  enter_flight(a.host, a.id, a.lapse)
  return 1
end

-- Gives a claim up without an attempt: the delivery is due now.
-- Arguments: id, host, claim, now.  Returns 1, or 0 if the claim was lost.
commands.release = function(a)
  local record = delivery_key(a.id)
  if field(record, 'claim') ~= a.claim then
    return 0
  end
  redis.call('HDEL', record, 'claim')
  redis.call('ZADD', DELIVERIES_DUE, a.now, a.id)
  redis.call('ZREM', in_flight_key(a.host), a.id)
  return 1
end

-- Records an attempt, and the state that follows from it. Fenced by the claim: a worker that
-- took too long may add its attempt, and may report that the event arrived, but nothing else. An
-- attempt that ran while a replay was asked for does not take the replay's place.
-- Arguments: id, host, claim, attempt (JSON; none: no attempt was made), state, due (of the next
-- attempt), reason, outcome (for the metrics).
-- Returns the state, 'late' if the claim was lost, or 'missing'.
commands.record_attempt = function(a)
  local record = delivery_key(a.id)
  count('webhook:' .. a.outcome)
  if redis.call('EXISTS', record) == 0 then
    redis.call('ZREM', DELIVERIES_DUE, a.id)
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
    return 'late'
  end
  redis.call('HDEL', record, 'claim', 'dispatched')
  redis.call('ZREM', in_flight_key(a.host), a.id)
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

-- Sends an event once more under its id, whatever its state, and also while an attempt runs.
-- Arguments: id, now.  Returns 1, or 0 if there is no such delivery.
commands.replay = function(a)
  local record = delivery_key(a.id)
  if redis.call('EXISTS', record) == 0 then
    return 0
  end
  redis.call('HDEL', record, 'claim', 'dispatched')
  redis.call('HSET', record, 'state', 'pending', 'tries', 0, 'reason', '', 'replayed', 1, 'replay_due', 1)
  redis.call('ZREM', DELIVERIES_DEAD, a.id)
  redis.call('ZADD', DELIVERIES_DUE, a.now, a.id)
  return 1
end

record_of = function(a) return a.id and delivery_key(a.id) end
counters = {record_attempt = {'attempts', 'tries'}, dispatch = {'dispatches'}}
