-- Webhook deliveries after their creation, which is part of a job's or batch's end (jobs.lua).
-- The table of their keys is in shared.lua. A record has the fields of `Delivery` in Python, and
-- `claim`, which names the dispatcher that attempts it now.

local commands = {}

-- Takes a delivery that is due. If its dispatcher dies, it is due again at `again`.
-- Arguments: id, claim, now, again.  Returns 1 if it was taken.
commands.claim = function(a)
  local due = redis.call('ZSCORE', DELIVERIES_DUE, a.id)
  if not due or tonumber(due) > tonumber(a.now) then
    return 0
  end
  if field(delivery_key(a.id), 'state') ~= 'pending' then
    redis.call('ZREM', DELIVERIES_DUE, a.id)
    return 0
  end
  redis.call('HSET', delivery_key(a.id), 'claim', a.claim)
  redis.call('ZADD', DELIVERIES_DUE, a.again, a.id)
  return 1
end

-- Records an attempt, and the state that follows from it. Fenced by the claim: a dispatcher that
-- took too long may add its attempt, and may report that the event arrived, but nothing else.
-- Arguments: id, claim, attempt (JSON; none: no attempt was made), state, due (of the next
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
  if field(record, 'claim') ~= a.claim and a.state ~= 'delivered' then
    return 'late'
  end
  redis.call('HDEL', record, 'claim')
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
  redis.call('HDEL', delivery_key(a.id), 'claim')
  redis.call('HSET', delivery_key(a.id), 'state', 'dropped', 'reason', '')
  return 1
end

-- Sends an event once more under its id, whatever its state.
-- Arguments: id, now.  Returns 1, or 0 if there is no such delivery.
commands.replay = function(a)
  local record = delivery_key(a.id)
  if redis.call('EXISTS', record) == 0 then
    return 0
  end
  redis.call('HDEL', record, 'claim')
  redis.call('HSET', record, 'state', 'pending', 'tries', 0, 'reason', '', 'replayed', 1)
  redis.call('ZREM', DELIVERIES_DEAD, a.id)
  redis.call('ZADD', DELIVERIES_DUE, a.now, a.id)
  return 1
end

return dispatch(commands, {
  record = function(a) return delivery_key(a.id) end,
  counters = {record_attempt = {'attempts', 'tries'}},
  any_type = {},
})
