-- Lists: those on which the messages of queued jobs wait, the turns of owners there, and the choice of
-- a queue. It stands in front of jobs.lua, whose commands change a record and a list in one step.
--
-- <list> is a Celery list as `<queue>|<Celery priority>`. Messages have one Celery priority, since the
-- claim chooses the job: owners take turns, and priorities order the jobs of one owner. Earlier
-- versions have a list for each priority.
--
-- key                       type    what for                                       expiry
-- rmbg:due                  zset    queued jobs to dispatch, by the time from when none
-- rmbg:dispatch_seq         string  number of the latest dispatch                  none
-- rmbg:lists                set     lists that messages were dispatched to         none
-- rmbg:dispatched:<list>    zset    jobs dispatched to a list, by dispatch_seq     none
-- rmbg:aged:<list>          set     those that an earlier version raised           none
-- rmbg:turns:<list>         zset    owners of dispatched jobs, by their last turn  none
-- rmbg:waiting:<list>:<owner>  zset  an owner's dispatched jobs, the next one first  none
-- rmbg:raised:<list>:<owner>   set   those of them that have aged                  1 day
-- rmbg:served               zset    owners by the number of their last turn        1 day
-- rmbg:turn_seq             string  number of the latest turn                      none
-- rmbg:workers:alive        zset    workers by the time until which they are alive none
-- rmbg:workers:ready        zset    workers by the time until which they are ready none
-- rmbg:workers:drained      hash    drained workers with the reason                none
-- rmbg:worker:<name>        hash    a worker's queue, model and seconds a job      7 days
-- rmbg:job:<id>             hash    a record; see jobs.lua                          its own

local DUE = P .. 'due'
local LISTS, DISPATCH_SEQ = P .. 'lists', P .. 'dispatch_seq'
local SERVED, TURN_SEQ = P .. 'served', P .. 'turn_seq'
local ALIVE_WORKERS, READY_WORKERS = P .. 'workers:alive', P .. 'workers:ready'
local DRAINED_WORKERS = P .. 'workers:drained'
local NORMAL = 3
-- From one priority to the next less urgent one.
local STEP = 3
local LEVELS = {'0', '3', '6'}
-- The Celery priority of all messages, `routing.MESSAGE_PRIORITY` in Python.
local MESSAGE_LEVEL = '3'
-- The place of a job among its owner's is the number of a dispatch, and that many more for each
-- priority level; `normal` has the plain numbers, as earlier versions write them.
local PER_LEVEL = 2 ^ 40
-- Turns of owners that had none lately come before all others, in the order of their arrival.
local BEFORE_ALL = 2 ^ 45
-- Owners of which the last turn is remembered; one of which it is not comes before those.
local MAX_SERVED = 10000
-- Entries without a job that one look for the next turn drops, so that no look takes long. Only
-- records that expired or were damaged, and earlier versions of the service, leave such entries.
local MAX_STALE = 100

local function dispatched_key(list) return P .. 'dispatched:' .. list end
local function aged_key(list) return P .. 'aged:' .. list end
local function turns_key(list) return P .. 'turns:' .. list end
local function waiting_key(list, owner) return P .. 'waiting:' .. list .. ':' .. owner end
local function raised_key(list, owner) return P .. 'raised:' .. list .. ':' .. owner end
-- The list of `routing.model_queue`, from which all workers of a model take.
local function shared_list(model) return 'model.' .. model .. '|' .. MESSAGE_LEVEL end
local function worker_key(name) return P .. 'worker:' .. name end

local function get(id, name) return field(job_key(id), name) end

local function owner_of(id) return get(id, 'owner') or '' end

-- Lists and dispatches ---------------------------------------------------------------------------

-- The Celery priority of a job's message; of a job of an earlier version, its priority.
local function level_of(id)
  return get(id, 'priority_level') or get(id, 'priority') or MESSAGE_LEVEL
end

local function list_of(id)
  return (get(id, 'queue') or '') .. '|' .. level_of(id)
end

-- How urgent a job is among its owner's: its priority, or the one that it was raised to.
local function urgency(id)
  local found = number(get(id, 'raised_priority')) or number(get(id, 'priority')) or NORMAL
  return math.max(0, math.min(found, 9))
end

-- A job's place among its owner's, by the number of a dispatch.
local function place_of(id, number)
  return (urgency(id) - NORMAL) * PER_LEVEL + tonumber(number) % PER_LEVEL
end

-- Gives an owner that is new to a list its turn there: that of its last one, so that whoever was
-- served the longest ago is the next.
local function join_turns(list, owner)
  if not redis.call('ZSCORE', turns_key(list), owner) then
    local turn = redis.call('ZSCORE', SERVED, owner)
      or redis.call('INCR', TURN_SEQ) - BEFORE_ALL
    redis.call('ZADD', turns_key(list), turn, owner)
  end
end

-- Makes the turn of an owner the last one on lists, and remembers it.
local function turn_last(lists, owner)
  local turn = redis.call('INCR', TURN_SEQ)
  for _, list in ipairs(lists) do
    local last = redis.call('ZRANGE', turns_key(list), -1, -1, 'WITHSCORES')
    -- An earlier version counts the turns of each list.
    turn = math.max(turn, (tonumber(last[2]) or 0) + 1)
  end
  for _, list in ipairs(lists) do
    redis.call('ZADD', turns_key(list), 'XX', turn, owner)
  end
  redis.call('SET', TURN_SEQ, string.format('%.0f', turn))
  redis.call('ZADD', SERVED, turn, owner)
  redis.call('ZREMRANGEBYRANK', SERVED, 0, -MAX_SERVED - 1)
  redis.call('EXPIRE', SERVED, 86400)
end

local function add_raised(list, owner, id)
  redis.call('SADD', raised_key(list, owner), id)
  redis.call('EXPIRE', raised_key(list, owner), 86400)
end

-- Adds a job to those that its owner has on a list; one that is there keeps its place.
local function add_waiting(list, id, number)
  local owner = owner_of(id)
  redis.call('ZADD', waiting_key(list, owner), 'NX', place_of(id, number), id)
  if get(id, 'raised_priority') then
    add_raised(list, owner, id)
  end
  join_turns(list, owner)
end

-- Takes a job from those that its owner has on a list; without a job there it has no turn.
local function remove_waiting(list, id, owner)
  redis.call('ZREM', waiting_key(list, owner), id)
  redis.call('SREM', raised_key(list, owner), id)
  if redis.call('EXISTS', waiting_key(list, owner)) == 0 then
    redis.call('ZREM', turns_key(list), owner)
  end
end

-- Forgets that a job has aged.
local function remove_raise(id)
  redis.call('HDEL', job_key(id), 'raised_priority')
  redis.call('SREM', raised_key(list_of(id), owner_of(id)), id)
end

-- Puts a job behind its owner's others of its urgency, after that has changed.
local function place_anew(id)
  local list, owner = list_of(id), owner_of(id)
  if redis.call('ZSCORE', waiting_key(list, owner), id) then
    local place = place_of(id, redis.call('INCR', DISPATCH_SEQ))
    redis.call('ZADD', waiting_key(list, owner), place, id)
  end
end

-- Of a job whose record is gone the owner is unknown: what names it there is dropped when the
-- owner's turn comes, or with the list.
local function leave(list, id)
  redis.call('ZREM', dispatched_key(list), id)
  redis.call('SREM', aged_key(list), id)
  remove_waiting(list, id, owner_of(id))
end

-- Puts a queued job on its list, under the number of a message on that list.
local function enter(id, number)
  local list = list_of(id)
  redis.call('HSET', job_key(id), 'dispatch_seq', number)
  redis.call('SADD', LISTS, list)
  redis.call('ZADD', dispatched_key(list), number, id)
  redis.call('ZREM', DUE, id)
  add_waiting(list, id, number)
end

-- Numbers the dispatch of a queued job's next message before it is sent. By that number a message
-- that never arrived, or that its list no longer holds, is found missing.
local function number_dispatch(id)
  local seq = redis.call('INCR', DISPATCH_SEQ)
  redis.call('HSET', job_key(id), 'priority_level', MESSAGE_LEVEL)
  enter(id, seq)
  return seq
end

-- Takes a queued job off its list; its next message is dispatched from `due` on.
local function postpone(id, due)
  leave(list_of(id), id)
  redis.call('ZADD', DUE, due, id)
end

-- The number of jobs dispatched to the lists of a queue with a Celery priority up to `lowest`.
local function dispatched_to(queue, lowest)
  local jobs = 0
  for _, level in ipairs(LEVELS) do
    if tonumber(level) <= lowest then
      jobs = jobs + redis.call('ZCARD', dispatched_key(queue .. '|' .. level))
    end
  end
  return jobs
end

-- The number of other owners' jobs on a list that go before a job: `place` jobs of its own owner do,
-- and `turn` owners have their turn before that one. Each of these has a turn more than the rest.
local function jobs_of_others(list, owner, place, turn)
  if place == 0 then
    return turn
  end
  local before = 0
  for rank, other in ipairs(redis.call('ZRANGE', turns_key(list), 0, -1)) do
    if other ~= owner then
      local turns = rank <= turn and place + 1 or place
      before = before + math.min(redis.call('ZCARD', waiting_key(list, other)), turns)
    end
  end
  return before
end

-- The number of jobs of its queue that go before a queued job, by the turns that its owners have
-- now; a duplicate has the position of its primary.
local function position(id)
  local ahead = get(id, 'primary') or id
  if get(ahead, 'status') ~= 'queued' then
    return 0
  end
  local list, owner, queue = list_of(ahead), owner_of(ahead), get(ahead, 'queue') or ''
  local level = number(level_of(ahead)) or NORMAL
  -- A job that is yet to be dispatched will be its owner's last one of its urgency.
  local waiting, turns = waiting_key(list, owner), turns_key(list)
  local place = redis.call('ZRANK', waiting, ahead)
    or redis.call('ZCOUNT', waiting, '-inf', place_of(ahead, PER_LEVEL - 1))
  local turn = redis.call('ZRANK', turns, owner) or redis.call('ZCARD', turns)
  return dispatched_to(queue, level - 1) + place + jobs_of_others(list, owner, place, turn)
end

-- Turns ------------------------------------------------------------------------------------------
-- The owners of the jobs on a list take turns, whoever was served the longest ago first: a message
-- stands for a place on its list, and the worker that takes it runs the next job there of the owner
-- whose turn it is. A worker takes from its own queue first, so that the turns of its model's shared
-- queue count there too. The job for which the message was sent gets the message of that one in
-- exchange, so that there is still a message for each job, and each message that a list has lost is
-- still found missing.

-- The queued job for which a message stands: the one that has its number, or else the one that it
-- names, which had it once. Arguments: list and number of the message (none: only its name counts),
-- id (that it names).
local function job_of_message(a)
  if not a.number then
    return a.id
  end
  local found = redis.call('ZRANGEBYSCORE', dispatched_key(a.list), a.number, a.number)
  return found[1] or a.id
end

-- The next job on a list of the owner whose turn it is; nil if none is found.
local function next_in_turn(list)
  for _ = 1, MAX_STALE do
    local owner = redis.call('ZRANGE', turns_key(list), 0, 0)[1]
    if not owner then
      return nil
    end
    local id = redis.call('ZRANGE', waiting_key(list, owner), 0, 0)[1]
    if id and redis.call('ZSCORE', dispatched_key(list), id)
      and not damage(job_key(id), counters.claim) then
      return id
    end
    remove_waiting(list, id or '', owner)
  end
end

-- Adds a job that an earlier version dispatched to those that its owner has on the list.
local function adopt(list, id)
  if not redis.call('ZSCORE', waiting_key(list, owner_of(id)), id) then
    add_waiting(list, id, redis.call('ZSCORE', dispatched_key(list), id))
  end
end

-- Takes a queued job to another queue, where it keeps its place among its owner's.
local function move(id, from, to)
  local place = redis.call('ZSCORE', waiting_key(from, owner_of(id)), id)
  leave(from, id)
  redis.call('HSET', job_key(id), 'queue', (to:gsub('|[^|]*$', '')))
  redis.call('SADD', LISTS, to)
  add_waiting(to, id, place)
end

-- Gives each of two jobs the message of the other one.
local function exchange_messages(one, on, other, at)
  local first = redis.call('ZSCORE', dispatched_key(on), one)
  local second = redis.call('ZSCORE', dispatched_key(at), other)
  if on ~= at then
    move(one, on, at)
    move(other, at, on)
  end
  redis.call('ZADD', dispatched_key(at), second, one)
  redis.call('ZADD', dispatched_key(on), first, other)
  redis.call('HSET', job_key(one), 'dispatch_seq', second)
  redis.call('HSET', job_key(other), 'dispatch_seq', first)
end

-- Whether one job, the next on its list, goes before that of another list.
local function goes_before(one, on, other, at)
  local owner, rival = owner_of(one), owner_of(other)
  if owner == rival then
    return tonumber(redis.call('ZSCORE', waiting_key(on, owner), one))
      < tonumber(redis.call('ZSCORE', waiting_key(at, rival), other))
  end
  return tonumber(redis.call('ZSCORE', turns_key(on), owner))
    < tonumber(redis.call('ZSCORE', turns_key(at), rival))
end

-- Returns the job that runs in place of one for which a message stands, by turns: of the same list,
-- or of the shared one of the worker's model.
local function take_turn(id, model)
  local list = list_of(id)
  if not redis.call('ZSCORE', dispatched_key(list), id) then
    return id
  end
  adopt(list, id)
  local chosen, from = next_in_turn(list) or id, list
  local shared = model and level_of(id) == MESSAGE_LEVEL and shared_list(model)
  local other = shared and shared ~= list and next_in_turn(shared)
  if other and goes_before(other, shared, chosen, list) then
    chosen, from = other, shared
  end
  if chosen ~= id then
    exchange_messages(id, list, chosen, from)
  end
  return chosen
end

-- Commands ---------------------------------------------------------------------------------------

-- Ranks a job in its queue.
-- Arguments: id.  Returns the number of jobs that go before it; 0 unless it is queued.
commands.position = function(a)
  return position(a.id)
end

-- Chooses the queue of the worker that would begin a job soonest. A worker takes from its own queue
-- before the model's shared one. So while a job waits in the shared queue, new ones go there too:
-- otherwise they would pass it again and again.
-- Arguments: model, shared (the model's shared queue), now, max_assigned (jobs that are
-- assigned to one worker at a time), default_seconds (of a job, for a worker that has finished
-- none), excluded_worker.  Returns the queue.
commands.choose_queue = function(a)
  local best, best_wait = a.shared, math.huge
  if dispatched_to(a.shared, math.huge) > 0 then
    return a.shared
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', ALIVE_WORKERS, a.now, '+inf')) do
    local ready = number(redis.call('ZSCORE', READY_WORKERS, name))
    local drained = field(DRAINED_WORKERS, name) or ''
    local worker = worker_key(name)
    local queue = field(worker, 'queue') or ''
    if ready and ready >= tonumber(a.now) and drained == '' and name ~= a.excluded_worker
      and queue ~= '' and field(worker, 'model') == a.model then
      local running = number(field(worker, 'running')) or 0
      local seconds = number(field(worker, 'seconds')) or tonumber(a.default_seconds)
      local assigned = running + dispatched_to(queue, math.huge)
      local wait = assigned * seconds
      if assigned < tonumber(a.max_assigned)
        and (wait < best_wait or (wait == best_wait and queue < best)) then
        best, best_wait = queue, wait
      end
    end
  end
  return best
end

-- Whether a job has been queued for too long at its urgency: `seconds` for each raise.
local function has_aged(id, a)
  local entered = redis.call('ZSCORE', QUEUED, id)
  local raises = ((number(get(id, 'priority')) or NORMAL) - urgency(id)) / STEP
  return entered and tonumber(a.now) - tonumber(entered) >= tonumber(a.seconds) * (raises + 1)
end

-- Raises the next jobs of an owner that have aged by a priority level, and appends them to `found`.
local function raise_aged_of(owner, a, found)
  local raised, most = raised_key(a.list, owner), tonumber(a.most)
  for _, id in ipairs(redis.call('SMEMBERS', raised)) do
    if not redis.call('ZSCORE', waiting_key(a.list, owner), id) then
      redis.call('SREM', raised, id)  -- An earlier version has taken it off the list.
    end
  end
  for _, level in ipairs({NORMAL, NORMAL + STEP}) do
    local first = (level - NORMAL) * PER_LEVEL
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting_key(a.list, owner), first,
      '(' .. first + PER_LEVEL, 'LIMIT', 0, most)) do
      if damage(job_key(id), {}) then
        found[#found + 1] = id
      elseif (redis.call('SISMEMBER', raised, id) == 1 or redis.call('SCARD', raised) < most)
        and has_aged(id, a) then
        redis.call('HSET', job_key(id), 'raised_priority', level - STEP)
        add_raised(a.list, owner, id)
        place_anew(id)
        found[#found + 1] = id
      end
    end
  end
end

-- Raises the jobs of a list that have waited too long behind more urgent ones of their owner.
-- Arguments: list, now, seconds, most (raised jobs of an owner that wait at a time), owners (how many
-- are looked at, those first whose turn comes first).
-- Returns the ids, with those of jobs whose record is damaged, which were not raised.
commands.raise_aged = function(a)
  local found = {}
  for _, owner in ipairs(redis.call('ZRANGE', turns_key(a.list), 0, tonumber(a.owners) - 1)) do
    raise_aged_of(owner, a, found)
  end
  return found
end

-- Counts the jobs of lists by how urgent they are now.
-- Arguments: lists.  Returns for each the numbers of high, normal and low ones.
commands.count_by_priority = function(a)
  local counts = {}
  for place, list in ipairs(a.lists) do
    local high, low = 0, 0
    for _, owner in ipairs(redis.call('ZRANGE', turns_key(list), 0, -1)) do
      high = high + redis.call('ZCOUNT', waiting_key(list, owner), '-inf', '(0')
      low = low + redis.call('ZCOUNT', waiting_key(list, owner), PER_LEVEL, '+inf')
    end
    counts[place] = {high, redis.call('ZCARD', dispatched_key(list)) - high - low, low}
  end
  return counts
end

-- Drops a list to which no job is dispatched.
-- Arguments: list.
commands.forget_list = function(a)
  if redis.call('EXISTS', dispatched_key(a.list)) == 1 then
    return
  end
  for _, owner in ipairs(redis.call('ZRANGE', turns_key(a.list), 0, -1)) do
    redis.call('DEL', waiting_key(a.list, owner), raised_key(a.list, owner))
  end
  redis.call('DEL', aged_key(a.list), turns_key(a.list))
  redis.call('SREM', LISTS, a.list)
end

for _, name in ipairs({'position', 'raise_aged', 'count_by_priority'}) do
  any_type[name] = true
end
for _, name in ipairs({'raise_aged', 'forget_list'}) do
  even_if_full[name] = true
end
