-- A leader has ended without an outcome for its followers: let one of them run and the others
-- follow it, or all of them whoever has become the leader since.
-- ARGV: old leader, the follower to run, now.  Returns who leads now, or '' if that one cannot.
local old, chosen, now = ARGV[1], ARGV[2], ARGV[3]
local key = get(chosen, 'cache_key')
if get(chosen, 'status') ~= 'queued' or get(chosen, 'leader') ~= old or not key then
  return ''
end
local leader = redis.call('GET', twin_key(key))
if not leader or not pending(leader) then
  leader = chosen
end
if leader == chosen then
  leave_leader(chosen)
  lead(chosen, key)
  postpone(chosen, now)
end
for _, id in ipairs(redis.call('SMEMBERS', followers_key(old))) do
  leave_leader(id)
  if id ~= leader and pending(id) then
    follow(id, leader)
    lift(leader, get(id, 'priority'), now)
  end
end
redis.call('ZREM', P .. 'settling', old)
return leader
