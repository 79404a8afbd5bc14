-- Jobs: every transition of a record, duplicates, batches; lists.lua has the lists of their messages.
-- They are one file, since most commands may end a job, and an end writes in one step the record,
-- the webhook's delivery, the batch's count, and that the duplicates are to be completed.
--
-- key                       type    what for                                       expiry
-- rmbg:job:<id>             hash    a record: the fields of `Job` in Python        pictures + 1 day
-- rmbg:job:<id>:lease       string  token of the worker that runs it               9 s, renewed
-- rmbg:jobs:<status>        zset    jobs of a status by the time of entry          none
-- rmbg:deadlines            zset    queued jobs with a deadline, by that           none
-- rmbg:dead                 zset    dead letters by the time of their end          none
-- rmbg:expiries             zset    all jobs by the time of the next erasure       none
-- rmbg:tasks:<owner>        zset    an owner's jobs by the time of submission      last record's
-- rmbg:tombstone:<id>       string  an id that must not be recorded any more       1 h
-- rmbg:primary:<cache key>  string  the pending job of that key that runs          its record's
-- rmbg:cached:<cache key>   string  a succeeded job of that key to copy from       about 1 h
-- rmbg:duplicates:<id>      set     jobs that wait for a primary's result          last record's
-- rmbg:primaries:ended      zset    ended primaries with duplicates, by that time  none
-- rmbg:batch:<id>           hash    a batch's record                               pictures + 1 day
-- rmbg:batch:<id>:items     list    its items, as JSON                             its record's
-- rmbg:batch:<id>:ends      hash    status by id of its jobs that have ended       its record's
-- rmbg:batches              zset    all batches by the time of their expiry         none
-- rmbg:pending:<owner>      zset    an owner's queued and running jobs              last record's
-- rmbg:idempotency:<digest> string  which task an Idempotency-Key stands for       30 s, renewed
-- rmbg:done:<id>            channel published when a job or batch ends

local DEADLINES, DEAD, EXPIRIES = P .. 'deadlines', P .. 'dead', P .. 'expiries'
local ENDED_PRIMARIES = P .. 'primaries:ended'
local STATUSES = {'queued', 'processing', 'succeeded', 'failed', 'canceled'}

local function lease_key(id) return P .. 'job:' .. id .. ':lease' end
local function index_key(status) return P .. 'jobs:' .. status end
local function owner_key(owner) return P .. 'tasks:' .. owner end
local function tombstone_key(id) return P .. 'tombstone:' .. id end
local function primary_key(cache_key) return P .. 'primary:' .. cache_key end
local function cached_key(cache_key) return P .. 'cached:' .. cache_key end
local function duplicates_key(id) return P .. 'duplicates:' .. id end

local function is_pending(id) return is_open(get(id, 'status')) end

-- Whether a worker runs a job under the lease of that token.
local function runs(id, token)
  return redis.call('GET', lease_key(id)) == token and get(id, 'status') == 'processing'
end

-- Whether no record may be created under an id.
local function is_taken(id)
  return redis.call('EXISTS', job_key(id), tombstone_key(id)) > 0
end

local function set_status(id, status, now)
  local before = get(id, 'status')
  if before then
    redis.call('ZREM', index_key(before), id)
  end
  redis.call('HSET', job_key(id), 'status', status)
  redis.call('ZADD', index_key(status), now, id)
  count_pending(id)
end

-- Writes a new record with its entries in the indices of status, time and owner, and keeps the key
-- of its request. The owner's index lives as long as its last job; two members at a time that have
-- expired are dropped from it.
-- Arguments: those of `create` and `create_finished`.
local function add_record(a)
  redis.call('HSET', job_key(a.id), unpack(flat(a.fields)))
  redis.call('EXPIREAT', job_key(a.id), a.expiry)
  redis.call('ZADD', index_key(a.fields.status), a.now, a.id)
  redis.call('ZADD', EXPIRIES, a.fields.expires_at, a.id)
  count_pending(a.id)
  redis.call('ZREM', RESERVED, reserved_as(a.fields.owner or '', a.id))
  local index = owner_key(a.fields.owner or '')
  for _, old in ipairs(redis.call('ZRANGE', index, 0, 1)) do
    if redis.call('EXISTS', job_key(old)) == 0 then
      redis.call('ZREM', index, old)
    end
  end
  redis.call('ZADD', index, a.fields.created_at, a.id)
  if redis.call('EXPIRETIME', index) < tonumber(a.expiry) then
    redis.call('EXPIREAT', index, a.expiry)
  end
  keep_reservation(a.reservation)
end

-- Duplicates -------------------------------------------------------------------------------------
-- Jobs with one cache key give one result. One of them runs, the primary; the others are queued
-- without a message and get its result.

-- Raises a queued primary to the priority of its most urgent duplicate. One on a list of an earlier
-- version is dispatched again; the message that it had before finds it running or final.
local function raise(primary, priority, now)
  local wanted = number(priority)
  if get(primary, 'status') ~= 'queued' or not wanted or urgency(primary) <= wanted then
    return
  end
  if level_of(primary) ~= MESSAGE_LEVEL and not redis.call('ZSCORE', DUE, primary) then
    postpone(primary, now)
  end
  remove_raise(primary)
  redis.call('HSET', job_key(primary), 'priority', priority)
  place_anew(primary)
end

local function add_duplicate(id, primary)
  redis.call('HSET', job_key(id), 'primary', primary)
  redis.call('SADD', duplicates_key(primary), id)
  local left = redis.call('TTL', job_key(id))
  if left > redis.call('TTL', duplicates_key(primary)) then
    redis.call('EXPIRE', duplicates_key(primary), left)
  end
end

local function remove_duplicate(id)
  local primary = get(id, 'primary')
  if primary then
    redis.call('SREM', duplicates_key(primary), id)
    redis.call('HDEL', job_key(id), 'primary')
  end
end

local function make_primary(id, cache_key)
  redis.call('SET', primary_key(cache_key), id, 'EX', math.max(1, redis.call('TTL', job_key(id))))
end

-- The pending job of a cache key that runs on behalf of the others, or nil.
local function primary_of(cache_key)
  local primary = redis.call('GET', primary_key(cache_key))
  return primary and is_pending(primary) and primary or nil
end

-- Makes a new job the duplicate of the pending job of its cache key, which it returns, or else the
-- primary.
local function join(id, now)
  local cache_key = get(id, 'cache_key')
  if not cache_key then
    return nil
  end
  local primary = primary_of(cache_key)
  if not primary then
    make_primary(id, cache_key)
    return nil
  end
  add_duplicate(id, primary)
  raise(primary, get(id, 'priority'), now)
  return primary
end

-- Ends the role of a job as a primary: its duplicates are to be completed.
local function end_primary(id)
  local cache_key = get(id, 'cache_key')
  if not cache_key then
    return
  end
  if redis.call('GET', primary_key(cache_key)) == id then
    redis.call('DEL', primary_key(cache_key))
  end
  if redis.call('EXISTS', duplicates_key(id)) == 1 then
    redis.call('ZADD', ENDED_PRIMARIES, number(get(id, 'finished_at')) or 0, id)
  end
end

-- Has later jobs of its cache key get the result of a job that has succeeded.
local function cache_result(id)
  local cache_key = get(id, 'cache_key')
  if cache_key and get(id, 'status') == 'succeeded' then
    local seconds = math.max(1, math.min(math.floor(number(get(id, 'cache_seconds')) or 1), 1e6))
    redis.call('SET', cached_key(cache_key), id, 'EX', seconds, 'NX')
  end
end

local function uncache(id, cache_key)
  if redis.call('GET', cached_key(cache_key)) == id then
    redis.call('DEL', cached_key(cache_key))
  end
end

-- A job's end ------------------------------------------------------------------------------------

local function count_end(id)
  local asked = decode(get(id, 'options') or '{}')['output_format']
  local labels = {
    get(id, 'status'), get(id, 'format') or (type(asked) == 'string' and asked) or 'none',
    get(id, 'model') or 'none', get(id, 'worker') or 'none',
  }
  count('jobs|' .. table.concat(labels, '|'))
  local finished = number(get(id, 'finished_at')) or 0
  local took = math.max(0, finished - (number(get(id, 'created_at')) or finished))
  local bucket = 'inf'
  for position, bound in ipairs(JOB_BUCKETS) do
    if took <= bound then
      bucket = position
      break
    end
  end
  count('job_seconds|' .. bucket)
  redis.call('HINCRBYFLOAT', COUNTERS, 'job_seconds_sum', took)
end

-- Whether an event is among those that a job's webhook takes; an empty list takes all of them.
local function takes(events, event)
  local names = decode(events or '[]')
  for _, name in ipairs(names) do
    if name == event then
      return true
    end
  end
  return #names == 0
end

-- Creates the delivery of an event, if its subject has a webhook, in the step that writes what it
-- reports (an outbox).
-- kind: task or batch; subject: its id; record: its key.
local function add_delivery(kind, subject, record, event, now)
  local url = field(record, 'webhook_url') or ''
  if url == '' then
    return
  end
  local list, seconds = deliveries_key(subject), math.max(1, redis.call('TTL', record))
  local id = 'msg_' .. subject .. '_' .. (redis.call('LLEN', list) + 1)
  redis.call('RPUSH', list, id)
  redis.call('HSET', delivery_key(id), 'id', id, 'kind', kind, 'subject', subject, 'event', event,
    'url', url, 'owner', field(record, 'owner') or '', 'created_at', now,
    'request_id', field(record, 'request_id') or '',
    'expires_at', field(record, 'expires_at') or 0, 'state', 'pending', 'attempts', 0, 'tries', 0)
  redis.call('EXPIRE', list, seconds)
  redis.call('EXPIRE', delivery_key(id), seconds)
  redis.call('ZADD', DELIVERIES_DUE, now, id)
end

-- Wakes up the requests that wait for the end of a job or batch.
local function announce(id)
  redis.call('PUBLISH', P .. 'done:' .. id, 'done')
end

-- Completes a batch once all of its jobs have ended; `jobs` is known when the batch is sealed.
local function complete_batch(batch, now)
  local jobs = number(field(batch_key(batch), 'jobs'))
  if not jobs or redis.call('HLEN', batch_key(batch) .. ':ends') < jobs then
    return
  end
  -- Once only, even if a job is requeued and ends again afterwards.
  if redis.call('HSETNX', batch_key(batch), 'completed_at', now) == 1 then
    announce(batch)
    add_delivery('batch', batch, batch_key(batch), 'batch.completed', now)
  end
end

-- Counts a job in its batch as one that has ended.
-- status: with which it ended, or 'erased'.
local function count_in_batch(id, status, now)
  local batch = get(id, 'batch_id')
  if not batch or redis.call('EXISTS', batch_key(batch)) == 0 then
    return
  end
  local ends = batch_key(batch) .. ':ends'
  redis.call('HSET', ends, id, status)
  redis.call('EXPIREAT', ends, redis.call('EXPIRETIME', batch_key(batch)))
  complete_batch(batch, now)
end

-- Counts a job that is queued again as one that has not ended: its batch, if it is not complete yet,
-- waits for it.
local function await_in_batch(id)
  local batch = get(id, 'batch_id')
  if batch then
    redis.call('HDEL', batch_key(batch) .. ':ends', id)
  end
end

local function report_end(id)
  count_end(id)
  count_in_batch(id, get(id, 'status'), get(id, 'finished_at'))
  local event = 'removal.' .. get(id, 'status')
  if takes(get(id, 'webhook_events'), event) then
    add_delivery('task', id, job_key(id), event, get(id, 'finished_at'))
  end
  announce(id)
  end_primary(id)
  cache_result(id)
end

-- Takes a job out of all that waits: lists, due, deadlines, duplicates.
local function leave_queue(id)
  leave(list_of(id), id)
  redis.call('ZREM', DUE, id)
  redis.call('ZREM', DEADLINES, id)
  remove_duplicate(id)
end

-- Ends a job: takes it from the queue and its worker, writes its end, and reports that.
local function end_job(id, now, status, fields)
  leave_queue(id)
  redis.call('DEL', lease_key(id))
  set_status(id, status, now)
  redis.call('HSET', job_key(id), 'finished_at', now, unpack(flat(fields)))
  if fields.result_key then
    set_charge(get(id, 'owner') or '', fields.result_key, number(fields.size) or 0)
  end
  report_end(id)
end

local function fail(id, now, error)
  end_job(id, now, 'failed', {error = error})
end

-- Fails a job that reached a limit, and lists it for an operator.
local function bury(id, now, error)
  fail(id, now, error)
  redis.call('ZADD', DEAD, now, id)
  return 'dead'
end

-- Whether a queued job's deadline has passed, by a clock that has not jumped since its submission.
local function is_overdue(id, now)
  local deadline = redis.call('ZSCORE', DEADLINES, id)
  return deadline and tonumber(deadline) <= tonumber(now) and has_passed(get(id, 'created_at'), now)
end

-- Commands ---------------------------------------------------------------------------------------

-- Accepts a new job. Nothing is written unless it is 'created' or 'joined'.
-- Arguments: id, fields, expiry (unix seconds), now, max_pending ('0': no limit), deadline,
-- reservation (see `keep_reservation`).
-- Returns {'created', dispatch_seq of its first message, position}, {'joined', its primary,
-- position}, {'exists'}, {'full'}, or {'known', a succeeded job of its cache key}.
commands.create = function(a)
  if is_taken(a.id) then
    return {'exists'}
  end
  local cache_key = a.fields.cache_key
  local known = cache_key and redis.call('GET', cached_key(cache_key))
  if known then
    return {'known', known}
  end
  local limit = tonumber(a.max_pending)
  if limit > 0 and redis.call('ZCARD', QUEUED) + redis.call('ZCARD', PROCESSING) >= limit then
    return {'full'}
  end
  add_record(a)
  if a.deadline then
    redis.call('ZADD', DEADLINES, a.deadline, a.id)
  end
  local primary = join(a.id, a.now)
  if primary then
    count('joined')
    return {'joined', primary, position(a.id)}
  end
  local seq = number_dispatch(a.id)
  return {'created', seq, position(a.id)}
end

-- Records a job that is final from its creation, since it has a copy of a cached result.
-- Arguments: id, fields, expiry (unix seconds), now, reservation (see `create`).
-- Returns {'created'} or {'exists'}.
commands.create_finished = function(a)
  if is_taken(a.id) then
    return {'exists'}
  end
  add_record(a)
  report_end(a.id)
  return {'created'}
end

-- Decides whether a job was recorded when the answer to its `create` was lost. Without a record a
-- tombstone refuses a `create` that is still on its way.
-- Arguments: id, seconds (of the tombstone).  Returns the record as fields and values in turn.
commands.tombstone = function(a)
  local record = redis.call('HGETALL', job_key(a.id))
  if #record == 0 then
    redis.call('SET', tombstone_key(a.id), 1, 'EX', a.seconds)
  end
  return record
end

-- Numbers a queued job's next message and puts the job on that message's list, in the place among
-- its owner's that it has.
-- Arguments: id, queue.
-- Returns the record as fields and values in turn; nothing if no message is to be sent.
commands.record_dispatch = function(a)
  if get(a.id, 'status') ~= 'queued' then
    return {}
  end
  local list, to = list_of(a.id), a.queue .. '|' .. MESSAGE_LEVEL
  local place = redis.call('ZSCORE', waiting_key(list, owner_of(a.id)), a.id)
  redis.call('HINCRBY', job_key(a.id), 'redispatches', 1)
  if to ~= list then
    leave(list, a.id)
  end
  redis.call('HSET', job_key(a.id), 'queue', a.queue)
  if place then
    add_waiting(to, a.id, place)
  end
  number_dispatch(a.id)
  return redis.call('HGETALL', job_key(a.id))
end

-- Has a queued job's next message dispatched later; a message that is on its way still counts.
-- Arguments: id, due (unix time); list and number of a message, for the job for which that stands.
-- Returns 1 if the job is queued.
commands.postpone = function(a)
  local id = job_of_message(a)
  if get(id, 'status') ~= 'queued' then
    return 0
  end
  postpone(id, a.due)
  return 1
end

-- Takes a queued job whose record cannot be read off the lists, where it would block the others,
-- until `due`. The record itself is not read.
-- Arguments: id, due (unix time).  Returns 1 if the job is queued.
commands.quarantine = function(a)
  if not redis.call('ZSCORE', QUEUED, a.id) then
    return 0
  end
  for _, list in ipairs(redis.call('SMEMBERS', LISTS)) do
    leave(list, a.id)
  end
  redis.call('ZADD', DUE, a.due, a.id)
  return 1
end

local function claim(id, a)
  local status = get(id, 'status')
  if not status then
    return 'missing'
  end
  if not is_open(status) then
    count('duplicates_refused')
    return 'final'
  end
  if redis.call('EXISTS', lease_key(id)) == 1 then
    count('duplicates_refused')
    return 'leased'
  end
  if status == 'processing' then
    -- Its worker is gone. The reconciler decides whether that counts as a loss.
    return 'leased'
  end
  if is_overdue(id, a.now) then
    fail(id, a.now, a.overdue)
    return 'final'
  end
  local model = get(id, 'model')
  if a.model and model and model ~= a.model then
    -- Sent again by the reconciler, to the queue of a worker that has the job's model.
    postpone(id, a.now)
    return 'other_model'
  end
  if a.respect_exclusion and get(id, 'excluded_worker') == a.worker then
    return 'excluded'
  end
  leave_queue(id)
  local list, shared = list_of(id), shared_list(model or '')
  turn_last(list == shared and {list} or {list, shared}, owner_of(id))
  set_status(id, 'processing', a.now)
  redis.call('SET', lease_key(id), a.token, 'PX', a.lease_ms)
  count('attempts')
  redis.call('HINCRBY', job_key(id), 'attempts', 1)
  redis.call('HSETNX', job_key(id), 'started_at', a.now)
  redis.call('HSET', job_key(id), 'worker', a.worker)
  return 'claimed'
end

-- Takes the lease of a queued job and counts the attempt, before the picture is touched. With a
-- message it is the job whose turn it is; without one, the job that is named.
-- Arguments: id, token, worker, now, lease_ms, respect_exclusion (boolean), overdue (the error of
-- a job whose deadline has passed); model (that the worker has loaded: a job of another one is
-- handed back; none, from an earlier version: any); list and number of the message that names the
-- job.
-- Returns 'claimed', 'leased', 'final', 'missing', 'excluded' or 'other_model', and the job's id.
commands.claim = function(a)
  local id = a.number and take_turn(job_of_message(a), a.model) or a.id
  return {claim(id, a), id}
end

-- Prolongs a lease that its token still holds.
-- Arguments: id, token, lease_ms.  Returns 1 if it did.
commands.renew = function(a)
  if not runs(a.id, a.token) then
    return 0
  end
  return redis.call('PEXPIRE', lease_key(a.id), a.lease_ms)
end

-- Writes a job's end. Fenced: only the lease's token may, and only once.
-- Arguments: id, token, now, status, fields.  Returns 'finished' or 'lost'.
commands.finish = function(a)
  if not runs(a.id, a.token) then
    count('duplicates_refused')
    return 'lost'
  end
  end_job(a.id, a.now, a.status, a.fields)
  return 'finished'
end

-- Puts a processing job back and counts a loss, which is no fault of the picture.
-- Called by its worker (with the token), by the worker's parent (with the token's beginning, which
-- names the process), or by the reconciler (with an empty token) once there is no lease.
-- Arguments: id, token, now, max_losses, lost (the error after too many losses), excluded_worker,
-- first_pause, last_pause (seconds).  Returns 'queued', 'dead' or 'none'.
commands.release = function(a)
  local status = get(a.id, 'status')
  if status ~= 'processing' then
    if status and redis.call('ZSCORE', index_key(status), a.id) then
      redis.call('ZREM', PROCESSING, a.id)
    end
    return 'none'
  end
  local token = redis.call('GET', lease_key(a.id)) or ''
  if token:sub(1, #a.token) ~= a.token or (a.token == '' and token ~= '') then
    return 'none'
  end
  redis.call('DEL', lease_key(a.id))
  count('losses')
  local losses = redis.call('HINCRBY', job_key(a.id), 'losses', 1)
  if losses >= tonumber(a.max_losses) then
    return bury(a.id, a.now, a.lost)
  end
  if a.excluded_worker then
    redis.call('HSET', job_key(a.id), 'excluded_worker', a.excluded_worker)
  end
  set_status(a.id, 'queued', a.now)
  -- No pause after the first loss; a second one may have a cause that takes time to pass.
  local pause = 0
  if losses > 1 then
    pause = math.min(tonumber(a.first_pause) * 2 ^ (losses - 2), tonumber(a.last_pause))
  end
  postpone(a.id, tonumber(a.now) + pause)
  return 'queued'
end

-- Counts a crash of the worker's child over a job, also one that was killed at the time limit.
-- Arguments: id, holder (the beginning of the lease's token: worker and pid), now, max_crashes,
-- poison (the error after too many crashes).  Returns 'queued', 'dead' or 'none'.
commands.crash = function(a)
  local token = redis.call('GET', lease_key(a.id)) or ''
  if get(a.id, 'status') ~= 'processing' or token:sub(1, #a.holder) ~= a.holder then
    return 'none'
  end
  redis.call('DEL', lease_key(a.id))
  count('crashes')
  if redis.call('HINCRBY', job_key(a.id), 'crashes', 1) >= tonumber(a.max_crashes) then
    return bury(a.id, a.now, a.poison)
  end
  set_status(a.id, 'queued', a.now)
  -- Celery itself returns the message, whose number the job has kept; if it does not, the
  -- reconciler finds it missing.
  local kept = number(get(a.id, 'dispatch_seq'))
  if kept then
    enter(a.id, string.format('%.0f', kept))
  else
    number_dispatch(a.id)
  end
  return 'queued'
end

-- Whether no message of a job follows the one with this number of redispatches, or is to follow.
local function is_at_its_message(id, status, redispatches)
  return (number(get(id, 'redispatches')) or 0) == redispatches
    and (status ~= 'queued' or redis.call('ZSCORE', dispatched_key(list_of(id)), id))
end

-- Cancels a job that is not final. A worker that runs it finds its lease gone.
-- Arguments: id, now, only (a status: no job of another one is canceled), redispatches (of the
-- message that was revoked: a job that was dispatched again, or is to be, is not canceled).
-- Returns 'canceled', 'missing', or the status of a job that is not canceled.
commands.cancel = function(a)
  local status = get(a.id, 'status')
  if not status then
    return 'missing'
  end
  if not is_open(status) or (a.only and a.only ~= status)
    or (a.redispatches and not is_at_its_message(a.id, status, tonumber(a.redispatches))) then
    return status
  end
  end_job(a.id, a.now, 'canceled', {})
  return 'canceled'
end

-- Queues a failed or canceled job again for an operator, with its counters at zero. It may wait as
-- long as after its submission, but not beyond the expiry of its pictures.
-- Arguments: id, now.  Returns 'requeued', 'missing', or the status of a job that is not requeued.
commands.requeue = function(a)
  local status = get(a.id, 'status')
  if not status then
    return 'missing'
  end
  if status ~= 'failed' and status ~= 'canceled' then
    return status
  end
  -- The priority of its latest message stays: that message may still come, and begin the job.
  redis.call('HDEL', job_key(a.id), 'error', 'finished_at', 'started_at', 'excluded_worker',
    'worker', 'raised_priority')
  redis.call('HSET', job_key(a.id), 'attempts', 0, 'crashes', 0, 'losses', 0)
  redis.call('ZREM', DEAD, a.id)
  set_status(a.id, 'queued', a.now)
  await_in_batch(a.id)
  postpone(a.id, a.now)
  local timeout = number(get(a.id, 'queue_timeout'))
  if not timeout then
    local deadline, created = number(get(a.id, 'deadline')), number(get(a.id, 'created_at'))
    timeout = deadline and created and deadline - created
  end
  if timeout then
    local latest = number(get(a.id, 'expires_at')) or math.huge
    local deadline = string.format('%.6f', math.min(tonumber(a.now) + timeout, latest))
    -- The deadline no longer tells the timeout, which the next requeue needs.
    redis.call('HSET', job_key(a.id), 'deadline', deadline, 'queue_timeout', timeout)
    redis.call('ZADD', DEADLINES, deadline, a.id)
  end
  return 'requeued'
end

-- Fails a queued job whose deadline has passed, unless the primary that it waits for is running.
-- Arguments: id, now, overdue (the error).  Returns 1 if it did.
commands.fail_overdue = function(a)
  if get(a.id, 'status') ~= 'queued' then
    redis.call('ZREM', DEADLINES, a.id)
    return 0
  end
  local primary = get(a.id, 'primary')
  if not is_overdue(a.id, a.now) or (primary and get(primary, 'status') == 'processing') then
    return 0
  end
  fail(a.id, a.now, a.overdue)
  return 1
end

-- Fails a job that is not final when its pictures expire.
-- Arguments: id, now, expired (the error).  Returns 1 if it did.
commands.expire = function(a)
  if not is_pending(a.id) then
    return 0
  end
  fail(a.id, a.now, a.expired)
  return 1
end

-- Releases what a job's owner was charged for its pictures, which are erased; the record stays.
-- Arguments: id.
commands.release_pictures = function(a)
  release_pictures(get(a.id, 'owner') or '', a.id, get(a.id, 'result_key'))
end

-- An item of a batch whose job was erased, with its name: `BatchItem.write` in Python.
local function nameless_item(id)
  return cjson.encode({'', id, cjson.null})
end

-- Takes the name of a job's picture out of the record of its batch.
local function drop_item_name(id)
  local batch = get(id, 'batch_id')
  local items = batch and redis.pcall('LRANGE', batch_key(batch) .. ':items', 0, -1) or {}
  for place, text in ipairs(items) do
    -- Most are told apart without decoding them.
    if string.find(text, id, 1, true) and decode(text)[2] == id then
      redis.call('LSET', batch_key(batch) .. ':items', place - 1, nameless_item(id))
    end
  end
end

-- Erases the deliveries of a job or batch, whose records name its owner and its receiver.
local function erase_deliveries(subject)
  for _, delivery in ipairs(redis.call('LRANGE', deliveries_key(subject), 0, -1)) do
    redis.call('ZREM', DELIVERIES_DUE, delivery)
    redis.call('ZREM', DELIVERIES_DEAD, delivery)
    redis.call('DEL', delivery_key(delivery), attempts_key(delivery))
  end
  redis.call('DEL', deliveries_key(subject))
end

-- Erases a record and all that names it. A worker that still runs the job finds neither lease nor
-- record, so that nothing it writes counts.
-- Arguments: id.  Returns 1, or 0 if there was no record.
commands.erase = function(a)
  local id = a.id
  local status = get(id, 'status')
  if not status then
    return 0
  end
  drop_item_name(id)
  leave_queue(id)
  redis.call('ZREM', index_key(status), id)
  redis.call('ZREM', DEAD, id)
  redis.call('ZREM', EXPIRIES, id)
  local owner = get(id, 'owner') or ''
  redis.call('ZREM', owner_key(owner), id)
  redis.call('ZREM', pending_key(owner), id)
  release_pictures(owner, id, get(id, 'result_key'))
  end_primary(id)
  uncache(id, get(id, 'cache_key') or '')
  erase_deliveries(id)
  if is_open(status) then
    -- Requeued since it was canceled: neither its batch nor the requests that wait for its end need
    -- wait any longer.
    count_in_batch(id, 'erased', a.now)
    announce(id)
  end
  redis.call('DEL', lease_key(id), job_key(id))
  return 1
end

-- Drops a job whose record has expired from all sets that name it.
-- Arguments: id, list (that it was dispatched to; none: unknown).
-- Returns 1, or 0 if it has a record.
commands.forget = function(a)
  if redis.call('EXISTS', job_key(a.id)) == 1 then
    return 0
  end
  for _, status in ipairs(STATUSES) do
    redis.call('ZREM', index_key(status), a.id)
  end
  for _, set in ipairs({DUE, DEADLINES, DEAD, EXPIRIES}) do
    redis.call('ZREM', set, a.id)
  end
  if a.list then
    leave(a.list, a.id)
  end
  if redis.call('EXISTS', duplicates_key(a.id)) == 1 then
    -- It has no result for its duplicates: one of them is to be promoted.
    redis.call('ZADD', ENDED_PRIMARIES, 0, a.id)
  end
  return 1
end

-- Ends a duplicate as its primary ended.
-- Arguments: id, primary, now, status, fields.  Returns 1, or 0 if it does not wait for that one.
commands.complete_duplicate = function(a)
  if get(a.id, 'status') ~= 'queued' or get(a.id, 'primary') ~= a.primary then
    return 0
  end
  end_job(a.id, a.now, a.status, a.fields)
  return 1
end

-- Lets a duplicate run, as the new primary of the others, when its primary ended without a result
-- for them. If another job has become the primary meanwhile, all of them wait for that one.
-- Arguments: id, primary (that has ended), now.
-- Returns the new primary; '' if the job is no duplicate of the old one.
commands.promote_duplicate = function(a)
  local cache_key = get(a.id, 'cache_key')
  if get(a.id, 'status') ~= 'queued' or get(a.id, 'primary') ~= a.primary or not cache_key then
    return ''
  end
  local primary = primary_of(cache_key) or a.id
  if primary == a.id then
    remove_duplicate(a.id)
    make_primary(a.id, cache_key)
    postpone(a.id, a.now)
  end
  for _, id in ipairs(redis.call('SMEMBERS', duplicates_key(a.primary))) do
    remove_duplicate(id)
    if id ~= primary and is_pending(id) then
      add_duplicate(id, primary)
      raise(primary, get(id, 'priority'), a.now)
    end
  end
  redis.call('ZREM', ENDED_PRIMARIES, a.primary)
  return primary
end

-- Reads the job whose result is cached under a key.
-- Arguments: cache_key.  Returns its id and its record as fields and values in turn, or nothing.
commands.cached_job = function(a)
  local id = redis.call('GET', cached_key(a.cache_key))
  if not id then
    return {}
  end
  local record = redis.pcall('HGETALL', job_key(id))
  return {id, record.err and {} or record}
end

-- Forgets a cached job whose result cannot be copied, unless another one has replaced it.
-- Arguments: id, cache_key.
commands.uncache = function(a)
  uncache(a.id, a.cache_key)
end

-- Says which items a batch has, which accepts its request. Jobs that have ended by now are counted
-- here, others as they end.
-- Arguments: batch, now, expiry (unix seconds), items (pairs of an item as JSON and its job's id;
-- '' for an item that was refused), reservation (see `keep_reservation`).
-- Returns 1, or 0 if there is no such batch.
commands.seal_batch = function(a)
  local batch, jobs = batch_key(a.batch), 0
  if redis.call('EXISTS', batch) == 0 then
    return 0
  end
  local owner = field(batch, 'owner') or ''
  for place, item in ipairs(a.items) do
    local text, id = item[1], item[2]
    if id == '' then
      set_charge(owner, refused_item(a.batch, place), 0)
    else
      jobs = jobs + 1
      if not is_pending(id) then
        -- A job that is gone was erased meanwhile: the batch does not wait for it.
        local status = get(id, 'status')
        redis.call('HSET', batch .. ':ends', id, status or 'erased')
        text = status and text or nameless_item(id)
      end
    end
    redis.call('RPUSH', batch .. ':items', text)
  end
  redis.call('HSET', batch, 'jobs', jobs)
  redis.call('EXPIREAT', batch .. ':items', a.expiry)
  redis.call('EXPIREAT', batch .. ':ends', a.expiry)
  keep_reservation(a.reservation)
  complete_batch(a.batch, a.now)
  return 1
end

-- Erases a batch's record, its items and its deliveries; its jobs stay.
-- Arguments: batch.
commands.erase_batch = function(a)
  local batch = batch_key(a.batch)
  local owner, items = field(batch, 'owner') or '', redis.pcall('LLEN', batch .. ':items')
  for place = 1, type(items) == 'number' and items or 0 do
    release_charge(owner, refused_item(a.batch, place))
  end
  redis.call('DEL', batch, batch .. ':items', batch .. ':ends')
  redis.call('ZREM', P .. 'batches', a.batch)
  erase_deliveries(a.batch)
end

record_of = function(a)
  return a.id and job_key(job_of_message(a)) or a.batch and batch_key(a.batch)
end
counters = {
  claim = {'attempts'}, crash = {'crashes'}, release = {'losses'},
  record_dispatch = {'redispatches'},
}
for _, name in ipairs({
  'create', 'create_finished', 'quarantine', 'forget', 'uncache', 'erase_batch', 'release_pictures',
}) do
  any_type[name] = true
end
-- Ends and erasures, and what leads a job to its end.
for _, name in ipairs({
  'claim', 'renew', 'finish', 'release', 'crash', 'cancel', 'fail_overdue', 'expire', 'release_pictures',
  'erase', 'forget', 'complete_duplicate', 'uncache', 'erase_batch',
}) do
  even_if_full[name] = true
end
