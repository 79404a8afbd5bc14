-- Put before every script. Redis does not take back what a script did before it failed: a command that
-- a damaged record can refuse goes before all that change something. A record is a hash; what it waits for is said by sorted sets:
--   jobs:<status>          every job of a status, by the time it entered it
--   sent:<queue>|<step>    queued jobs whose message was sent, by the number of their sending
--   lifted:<queue>|<step>  those of them that wait there since a lower step let them wait too long
--   due                    queued jobs whose message is to be sent, by the time from which on
--   deadlines              queued jobs that nobody wants after a time, by that time
--   expiries               every job, by the time at which something of it is to be erased
--   tasks:<owner>          every job of an owner, by the time it was submitted
local P = 'rmbg:'
local QUEUED, DEADLINES, DUE, DEAD = P .. 'jobs:queued', P .. 'deadlines', P .. 'due', P .. 'dead'
local EXPIRIES = P .. 'expiries'
local DELIVERIES_DUE, DELIVERIES_DEAD = P .. 'deliveries:due', P .. 'deliveries:dead'

local function job_key(id) return P .. 'job:' .. id end
local function lease_key(id) return P .. 'job:' .. id .. ':lease' end
local function index(status) return P .. 'jobs:' .. status end
local function get(id, name) return redis.call('HGET', job_key(id), name) end
local function withdrawn_key(id) return P .. 'withdrawn:' .. id end
local function delivery_key(id) return P .. 'delivery:' .. id end
local function attempts_key(id) return P .. 'delivery:' .. id .. ':attempts' end
-- May no record be made of that id, since there is one or since it was withdrawn?
local function is_taken(id)
  return redis.call('EXISTS', job_key(id), withdrawn_key(id)) > 0
end

-- A finite number, or nil: records may hold anything, and Lua reads 'nan' and 'inf' too.
local function number(text)
  local value = tonumber(text or nil)
  return value and value - value == 0 and value or nil
end

local function tasks_of(id) return P .. 'tasks:' .. (get(id, 'owner') or '') end

-- Its place among the lists of its queue: its priority's, unless it was lifted.
local function step_of(id)
  return get(id, 'step') or get(id, 'priority') or '3'
end

-- Which list its message went to.
local function list_of(id)
  return (get(id, 'queue') or '') .. '|' .. step_of(id)
end

local function leave_list(id)
  local list = list_of(id)
  redis.call('ZREM', P .. 'sent:' .. list, id)
  redis.call('SREM', P .. 'lifted:' .. list, id)
end

-- What twins.lua sees to: a job that waits no more follows nobody; one that ends leads nobody.
local leave_leader, end_twin

-- It waits for nothing any more: neither for a worker nor to be sent.
local function unqueue(id)
  leave_list(id)
  redis.call('ZREM', DUE, id)
  redis.call('ZREM', DEADLINES, id)
  leave_leader(id)
end

-- A new record's place in time and with its owner, whose list lives as long as the last job in it;
-- two of those that have expired go now.
local function keep(id, expiry)
  redis.call('EXPIREAT', job_key(id), expiry)
  redis.call('ZADD', EXPIRIES, get(id, 'expires_at'), id)
  local list = tasks_of(id)
  for _, old in ipairs(redis.call('ZRANGE', list, 0, 1)) do
    if redis.call('EXISTS', job_key(old)) == 0 then
      redis.call('ZREM', list, old)
    end
  end
  redis.call('ZADD', list, get(id, 'created_at'), id)
  if redis.call('EXPIRETIME', list) < tonumber(expiry) then
    redis.call('EXPIREAT', list, expiry)
  end
end

local function move(id, status, now)
  local before = get(id, 'status')
  if before then
    redis.call('ZREM', index(before), id)
  end
  redis.call('HSET', job_key(id), 'status', status)
  redis.call('ZADD', index(status), now, id)
end

-- The number of a sending, noted before the message goes out: a message that never arrives, or
-- that its list no longer holds, shows by it.
local function note_sending(id)
  local number, list = redis.call('INCR', P .. 'sendings'), list_of(id)
  redis.call('HSET', job_key(id), 'sending', number)
  redis.call('SADD', P .. 'lists', list)
  redis.call('ZADD', P .. 'sent:' .. list, number, id)
  if step_of(id) ~= (get(id, 'priority') or '3') then
    redis.call('SADD', P .. 'lifted:' .. list, id)
  end
  redis.call('ZREM', DUE, id)
  return number
end

-- To be sent from a time on; until then it is on no list.
local function postpone(id, due)
  leave_list(id)
  redis.call('ZADD', DUE, due, id)
end

-- Counts since the service's first day, for the metrics.
local function count(name)
  redis.call('HINCRBY', P .. 'counters', name, 1)
end

-- What an end is told with comes from outside and is read after the end was written: text that is
-- no JSON must not break the script off in between.
local function decode(text)
  local read, value = pcall(cjson.decode, text)
  return read and type(value) == 'table' and value or {}
end

local function asked_format(id)
  local format = decode(get(id, 'options') or '{}')['output_format']
  return type(format) == 'string' and format
end

-- A job's end, by what it was, and by how long it took since its submission.
local function count_end(id)
  if not get(id, 'finished_at') then
    return -- erased before its end
  end
  local facts = {
    get(id, 'status'), get(id, 'format') or asked_format(id) or 'none',
    get(id, 'model') or 'none', get(id, 'worker') or 'none',
  }
  count('jobs|' .. table.concat(facts, '|'))
  local finished = number(get(id, 'finished_at')) or 0
  local took = math.max(0, finished - (number(get(id, 'created_at')) or finished))
  local bucket = 'inf'
  for number, bound in ipairs(JOB_BUCKETS) do
    if took <= bound then
      bucket = number
      break
    end
  end
  count('job_seconds|' .. bucket)
  redis.call('HINCRBYFLOAT', P .. 'counters', 'job_seconds_sum', took)
end

-- The outbox: an event and the time from which it is due, written with what it tells of. `kind` is
-- task or batch, `subject` its id, `keep` the seconds for which its record is kept.
local function add_delivery(kind, subject, event, facts, keep)
  local list = P .. 'deliveries:' .. subject
  local id = 'msg_' .. subject .. '_' .. (redis.call('LLEN', list) + 1)
  redis.call('RPUSH', list, id)
  redis.call('HSET', delivery_key(id), 'id', id, 'kind', kind, 'subject', subject, 'event', event,
    'url', facts.url, 'owner', facts.owner, 'created_at', facts.now,
    'expires_at', facts.expires_at, 'state', 'pending', 'attempts', 0, 'tries', 0)
  redis.call('EXPIRE', list, keep)
  redis.call('EXPIRE', delivery_key(id), keep)
  redis.call('ZADD', DELIVERIES_DUE, facts.now, id)
end

-- May an event be told? A list that is empty names all of them.
local function wanted(events, event)
  local names = decode(events or '[]')
  for _, name in ipairs(names) do
    if name == event then
      return true
    end
  end
  return #names == 0
end

-- A batch is a hash; the ids of its jobs that have ended, with their ends, are another one. It is
-- done once as many ended as it has jobs, which is known when all of it has been taken in.
local function batch_key(batch) return P .. 'batch:' .. batch end

local function notify_batch(batch, now)
  local url = redis.call('HGET', batch_key(batch), 'webhook_url')
  if not url then
    return
  end
  local facts = {
    url = url, owner = redis.call('HGET', batch_key(batch), 'owner') or '', now = now,
    expires_at = redis.call('HGET', batch_key(batch), 'expires_at') or 0,
  }
  local keep = math.max(1, redis.call('TTL', batch_key(batch)))
  add_delivery('batch', batch, 'batch.completed', facts, keep)
end

local function complete_batch(batch, now)
  local jobs = number(redis.call('HGET', batch_key(batch), 'jobs'))
  if not jobs or redis.call('HLEN', batch_key(batch) .. ':ends') < jobs then
    return
  end
  -- Once, whatever is begun anew, and ends again, afterwards.
  if redis.call('HSETNX', batch_key(batch), 'completed_at', now) == 1 then
    redis.call('PUBLISH', P .. 'done:' .. batch, 'done')
    notify_batch(batch, now)
  end
end

local function count_in_batch(id)
  local batch = get(id, 'batch_id')
  if not batch or redis.call('EXISTS', batch_key(batch)) == 0 then
    return
  end
  local ends = batch_key(batch) .. ':ends'
  redis.call('HSET', ends, id, get(id, 'status'))
  redis.call('EXPIREAT', ends, redis.call('EXPIRETIME', batch_key(batch)))
  complete_batch(batch, get(id, 'finished_at'))
end

local function notify_end(id)
  local url, event = get(id, 'webhook_url'), 'removal.' .. get(id, 'status')
  if not url or url == '' or not wanted(get(id, 'webhook_events'), event) then
    return
  end
  local facts = {
    url = url, owner = get(id, 'owner') or '', now = get(id, 'finished_at'),
    expires_at = get(id, 'expires_at') or 0,
  }
  add_delivery('task', id, event, facts, math.max(1, redis.call('TTL', job_key(id))))
end

-- Wake up whoever waits for it.
local function announce(id)
  redis.call('PUBLISH', P .. 'done:' .. id, 'done')
end

local function publish_end(id)
  count_end(id)
  count_in_batch(id)
  notify_end(id)
  announce(id)
  end_twin(id)
end

local function fail(id, now, reason, dead)
  unqueue(id)
  move(id, 'failed', now)
  redis.call('HSET', job_key(id), 'error', reason, 'finished_at', now)
  if dead then
    redis.call('ZADD', DEAD, now, id)
  end
  publish_end(id)
end
