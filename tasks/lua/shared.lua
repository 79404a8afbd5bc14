-- Stands in front of each of the other files: names, helpers, and `dispatch`, which runs a command.
--
-- ARGV: the command's name, and its arguments as one JSON object. Numbers and times are text in it,
-- as they are in Redis, so that none loses a digit; an argument that is left out is nil. Keys are
-- built here and not declared in KEYS: the service needs one Redis, not a cluster.
--
-- key                             type   what for                                        expiry
-- rmbg:counters                   hash   counts since the service's first day            none
-- rmbg:delivery:<id>              hash   a webhook delivery's record                     subject's
-- rmbg:delivery:<id>:attempts     list   its latest 50 attempts, as JSON                 subject's
-- rmbg:deliveries:<subject>       list   ids of a task's or batch's deliveries           subject's
-- rmbg:deliveries:due             zset   pending deliveries by the time to dispatch them none
-- rmbg:deliveries:dead            zset   deliveries given up, by the time of that        none
-- rmbg:webhooks:in_flight:<host>  zset   a host's dispatched deliveries, by their lapse  60 s

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

-- A JSON object or array as a table; an empty table for any other text.
local function decode(text)
  local readable, value = pcall(cjson.decode, text)
  return readable and type(value) == 'table' and value or {}
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

-- Runs the command that ARGV names. The one rule on damaged records is here. Redis keeps what a
-- script wrote before it failed, so that nothing may fail once a command writes: before it runs,
-- the record that it changes must be a hash, and the counters that it adds to must be integers.
-- All else that a record holds is read by `field`, `number` and `decode`, which fail on nothing.
--
-- commands: the functions by name.
-- rule.record: from the arguments to the key of the record that a command changes, or nil.
-- rule.counters: by command, the fields of that record that it adds to.
-- rule.any_type: commands that take a record of any type, since they do not read it.
local function dispatch(commands, rule)
  local name, arguments = ARGV[1], cjson.decode(ARGV[2])
  local record = not rule.any_type[name] and rule.record(arguments)
  local refused = record and damage(record, rule.counters[name] or {})
  if refused then
    return redis.error_reply(refused)
  end
  return commands[name](arguments)
end
