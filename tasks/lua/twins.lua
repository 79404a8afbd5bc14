-- Put behind common.lua. Of the jobs that would give the same result, their cache key being the
-- same, one runs, the leader; the others follow: queued, but with no message of their own.
--   twin:<cache key>    the leader, as long as it is not final
--   cached:<cache key>  a job of that key that succeeded, for a while
--   followers:<id>      those who follow a leader: a set
--   settling            leaders that have ended and left followers: a sorted set by that time
local function twin_key(key) return P .. 'twin:' .. key end
local function cached_key(key) return P .. 'cached:' .. key end
local function followers_key(id) return P .. 'followers:' .. id end

local function pending(id)
  local status = get(id, 'status')
  return status == 'queued' or status == 'processing'
end

-- Does the job that it follows run? Then it has begun too.
local function follows_running(id)
  local leader = get(id, 'leader')
  return leader and get(leader, 'status') == 'processing'
end

-- As urgent as its most urgent follower. It is sent again at its new place; the message that it
-- had before finds it running or done.
local function lift(leader, step, now)
  local wanted_step = number(step)
  if get(leader, 'status') ~= 'queued' or not wanted_step
    or (number(step_of(leader)) or 0) <= wanted_step then
    return
  end
  local due = redis.call('ZSCORE', DUE, leader)
  postpone(leader, due or now)
  redis.call('HDEL', job_key(leader), 'step')
  redis.call('HSET', job_key(leader), 'priority', step)
end

local function follow(id, leader)
  redis.call('HSET', job_key(id), 'leader', leader)
  redis.call('SADD', followers_key(leader), id)
  local left = redis.call('TTL', job_key(id))
  if left > redis.call('TTL', followers_key(leader)) then
    redis.call('EXPIRE', followers_key(leader), left)
  end
end

local function lead(id, key)
  redis.call('SET', twin_key(key), id, 'EX', math.max(1, redis.call('TTL', job_key(id))))
end

-- Follow the job of the same key that waits or runs, and return it; or be the one.
local function join(id, now)
  local key = get(id, 'cache_key')
  if not key then
    return nil
  end
  local leader = redis.call('GET', twin_key(key))
  if not leader or not pending(leader) then
    lead(id, key)
    return nil
  end
  follow(id, leader)
  lift(leader, get(id, 'priority'), now)
  return leader
end

leave_leader = function(id)
  local leader = get(id, 'leader')
  if leader then
    redis.call('SREM', followers_key(leader), id)
    redis.call('HDEL', job_key(id), 'leader')
  end
end

end_twin = function(id)
  local key = get(id, 'cache_key')
  if not key then
    return
  end
  if redis.call('GET', twin_key(key)) == id then
    redis.call('DEL', twin_key(key))
  end
  if get(id, 'status') == 'succeeded' then
    local seconds = math.max(1, math.min(math.floor(number(get(id, 'cache_seconds')) or 1), 1e6))
    redis.call('SET', cached_key(key), id, 'EX', seconds, 'NX')
  end
  if redis.call('EXISTS', followers_key(id)) == 1 then
    redis.call('ZADD', P .. 'settling', number(get(id, 'finished_at')) or 0, id)
  end
end
