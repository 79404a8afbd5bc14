-- Quotas: what each owner has stored, its uploads and its pending jobs.
-- It stands between shared.lua and the files that use it, since what an owner has changes in the
-- step that changes the record which holds it. Bytes are kept by object, so that charging one twice
-- counts once, and what is released is what was charged.
--
-- key                     type what for                                                   expiry
-- rmbg:stored             hash bytes charged to each owner                                none
-- rmbg:charges:<owner>    hash bytes charged for each object, by its key in the bucket,   none
--                              and none for each refused item of a batch
-- rmbg:reserved           zset `<owner>|<id>`: charges without a record, by their lapse   none
-- rmbg:pending:<owner>    zset an owner's queued and running jobs: 0, or without a record
--                              the time at which that lapses                            last record's
-- rmbg:uploads:<owner>    zset an owner's uploads: 0 if unfinished, 1 if complete         none
-- rmbg:jobs:<status>      zset jobs of a status; see jobs.lua                             none
-- rmbg:job:<id>           hash a job's record; see jobs.lua                               its own
-- rmbg:upload:<id>        hash the record of a resumable upload                           its own
-- rmbg:batch:<id>         hash a batch's record; see jobs.lua                             its own
-- rmbg:keys               hash an owner's id by the SHA-256 of its key                    none

local STORED, RESERVED, API_KEYS = P .. 'stored', P .. 'reserved', P .. 'keys'
local QUEUED, PROCESSING = P .. 'jobs:queued', P .. 'jobs:processing'
local function charges_key(owner) return P .. 'charges:' .. owner end
local function pending_key(owner) return P .. 'pending:' .. owner end
local function uploads_key(owner) return P .. 'uploads:' .. owner end
local function job_key(id) return P .. 'job:' .. id end
local function upload_key(id) return P .. 'upload:' .. id end
local function batch_key(batch) return P .. 'batch:' .. batch end
local function upload_object(id) return 'uploads/' .. id end
local function reserved_as(owner, id) return owner .. '|' .. id end

-- The longest list of charges that is added up again; above that, it would keep others waiting.
local MOST_ADDED_UP = 100000

local function is_open(status) return status == 'queued' or status == 'processing' end

local function whole(value) return string.format('%.0f', value) end

local function stored_by(owner) return number(field(STORED, owner)) or 0 end

local function charged_for(owner, object)
  return number(field(charges_key(owner), object)) or 0
end

-- Charges an owner the bytes of an object, in place of what was charged for it before.
local function set_charge(owner, object, bytes)
  local before = charged_for(owner, object)
  redis.call('HSET', charges_key(owner), object, whole(bytes))
  redis.call('HSET', STORED, owner, whole(stored_by(owner) + bytes - before))
end

local function release_charge(owner, object)
  local before = charged_for(owner, object)
  if redis.call('HDEL', charges_key(owner), object) == 1 then
    redis.call('HSET', STORED, owner, whole(math.max(0, stored_by(owner) - before)))
  end
end

local function release_pictures(owner, id, result)
  release_charge(owner, 'originals/' .. id)
  release_charge(owner, 'backgrounds/' .. id)
  if result then
    release_charge(owner, result)
  end
end

-- An item of a batch that was refused, by its place. Its name and its reason are kept, in Redis alone:
-- it is charged as an object of no bytes, so that it counts among what its owner has there.
local function refused_item(batch, place) return 'batches/' .. batch .. '/' .. place end

-- Counts a job among its owner's pending ones, until a unix time at least.
local function add_pending(owner, id, lapse, expiry)
  local added = redis.call('ZADD', pending_key(owner), 'CH', lapse, id)
  -- Every owner that has anything is in there.
  redis.call('HSETNX', STORED, owner, 0)
  if redis.call('EXPIRETIME', pending_key(owner)) < tonumber(expiry) then
    redis.call('EXPIREAT', pending_key(owner), string.format('%d', expiry))
  end
  return added
end

-- Counts a job among its owner's pending ones as long as its record says that it is one.
local function count_pending(id)
  local record = job_key(id)
  local owner = field(record, 'owner') or ''
  if is_open(field(record, 'status')) then
    return add_pending(owner, id, 0, redis.call('EXPIRETIME', record))
  end
  return redis.call('ZREM', pending_key(owner), id)
end

local function is_reserved(owner, id, now)
  local lapse = number(redis.call('ZSCORE', RESERVED, reserved_as(owner, id)))
  return lapse and lapse > tonumber(now)
end

-- The most jobs that an owner may have pending, 0 for no limit: its quota, and where there are
-- several keys no more than it leaves free. So no owner takes all of the service's places.
local function pending_limit(owner, quota)
  local limit, all = tonumber(quota.pending), tonumber(quota.all_pending)
  if all == 0 or redis.call('HLEN', API_KEYS) < 2 then
    return limit
  end
  local open = redis.call('ZCARD', QUEUED) + redis.call('ZCARD', PROCESSING)
  local others = math.max(0, open - redis.call('ZCOUNT', pending_key(owner), 0, 0))
  -- Where the others leave nothing, it is not this owner's quota that has no room.
  local share = math.max(1, math.floor((all - others) / 2))
  return limit == 0 and share or math.min(limit, share)
end

-- What an owner has, behind a refusal ('' for none): bytes, unfinished uploads, uploads, pending,
-- and the most that may be pending.
local function usage(a, refused)
  local uploads = uploads_key(a.owner)
  return {
    refused or '', whole(stored_by(a.owner)), redis.call('ZCOUNT', uploads, 0, 0),
    redis.call('ZCARD', uploads), redis.call('ZCARD', pending_key(a.owner)),
    pending_limit(a.owner, a.quota),
  }
end

-- Whether a number is above a limit; 0 is no limit.
local function exceeds(value, limit)
  return tonumber(limit) > 0 and value > tonumber(limit)
end

-- Charges an owner for what is about to be stored under some ids: all of it, or nothing.
-- An object of unknown size is charged as far as there is room, `up_to` the largest that it may be.
-- Arguments: owner, quota (the limits bytes, pending and all_pending, which is the service's; '0':
-- none), ids (in lists of one), objects (pairs of key and bytes), pending (boolean: they will be
-- pending jobs), lapse (unix time at which the charges are released unless a record holds them),
-- up_to (boolean; then there is one object).
-- Returns the refusal ('bytes', 'pending' or ''), and what `usage` gives.
commands.charge = function(a)
  local bytes, new = 0, {}
  if a.up_to and tonumber(a.quota.bytes) > 0 then
    local room = tonumber(a.quota.bytes) - stored_by(a.owner)
    if room <= 0 then
      return usage(a, 'bytes')
    end
    a.objects[1][2] = math.min(tonumber(a.objects[1][2]), room)
  end
  for _, object in ipairs(a.objects) do
    bytes = bytes + tonumber(object[2]) - charged_for(a.owner, object[1])
  end
  if bytes > 0 and exceeds(stored_by(a.owner) + bytes, a.quota.bytes) then
    return usage(a, 'bytes')
  end
  local pending = pending_key(a.owner)
  for _, id in ipairs(a.pending and a.ids or {}) do
    if not redis.call('ZSCORE', pending, id[1]) then
      new[#new + 1] = id[1]
    end
  end
  local limit = pending_limit(a.owner, a.quota)
  if #new > 0 and exceeds(redis.call('ZCARD', pending) + #new, limit) then
    return usage(a, 'pending')
  end
  for _, id in ipairs(new) do
    add_pending(a.owner, id, a.lapse, a.lapse)
  end
  for _, object in ipairs(a.objects) do
    set_charge(a.owner, object[1], tonumber(object[2]))
  end
  for _, id in ipairs(a.ids) do
    redis.call('ZADD', RESERVED, a.lapse, reserved_as(a.owner, id[1]))
  end
  return usage(a)
end

-- Releases what was charged for ids of which no record was made.
-- Arguments: owner, ids (in lists of one), objects (keys in lists of one; none: all of the ids).
commands.release_charges = function(a)
  for _, each in ipairs(a.ids) do
    local id = each[1]
    if redis.call('EXISTS', job_key(id)) == 0 then
      for _, object in ipairs(a.objects or {}) do
        release_charge(a.owner, object[1])
      end
      if not a.objects then
        release_pictures(a.owner, id)
        redis.call('ZREM', pending_key(a.owner), id)
        redis.call('ZREM', RESERVED, reserved_as(a.owner, id))
      end
    end
  end
end

-- Reads what an owner has.
-- Arguments: owner, quota.  Returns what `usage` gives.
commands.usage = function(a)
  return usage(a)
end

-- The id and the key of the record that holds an object.
local function holder(object)
  local kind, id = object:match('^(%a+)/([^/]+)')
  local key = kind == 'uploads' and upload_key or kind == 'batches' and batch_key or job_key
  return id or '', key(id or '')
end

-- How many objects an owner was charged for, all owners together, and how many keys there are. Behind
-- each object is a part of a record, so that this tells how Redis is shared.
-- Arguments: owner.
commands.shares = function(a)
  local all = 0
  for _, owner in ipairs(redis.call('HKEYS', STORED)) do
    all = all + redis.call('HLEN', charges_key(owner))
  end
  return {redis.call('HLEN', charges_key(a.owner)), all, redis.call('HLEN', API_KEYS)}
end

-- Whether the pictures of a record are still kept.
local function is_kept(record, now)
  local expiry = number(field(record, 'expires_at'))
  return expiry and expiry > tonumber(now)
end

-- Charges objects that were found in the bucket, that a record holds, and that nobody was charged
-- for: an older version of the service stored them, or Redis has lost what it knew.
-- Arguments: objects (pairs of key and bytes), now.
commands.charge_found = function(a)
  for _, found in ipairs(a.objects) do
    local _, record = holder(found[1])
    local owner = field(record, 'owner') or ''
    if is_kept(record, a.now) and not field(charges_key(owner), found[1]) then
      set_charge(owner, found[1], tonumber(found[2]))
    end
  end
end

-- Releases what an owner was charged for and no record holds.
-- Arguments: owner, now, objects, uploads, pending (each a list of keys or ids in lists of one).
-- Returns the number of corrections.
commands.release_unheld = function(a)
  local corrected = 0
  for _, each in ipairs(a.objects) do
    local id, record = holder(each[1])
    if redis.call('EXISTS', record) == 0 and not is_reserved(a.owner, id, a.now) then
      release_charge(a.owner, each[1])
      corrected = corrected + 1
    end
  end
  for _, each in ipairs(a.uploads) do
    if redis.call('EXISTS', upload_key(each[1])) == 0 then
      corrected = corrected + redis.call('ZREM', uploads_key(a.owner), each[1])
    end
  end
  for _, each in ipairs(a.pending) do
    if not is_open(field(job_key(each[1]), 'status')) and not is_reserved(a.owner, each[1], a.now) then
      corrected = corrected + redis.call('ZREM', pending_key(a.owner), each[1])
    end
  end
  return corrected
end

-- Counts pending jobs and uploads that have a record and were not counted, as those that an older
-- version of the service recorded.
-- Arguments: jobs, uploads (ids in lists of one), now.  Returns the number of corrections.
commands.count_held = function(a)
  local corrected = 0
  for _, each in ipairs(a.jobs) do
    if is_open(field(job_key(each[1]), 'status')) then
      corrected = corrected + count_pending(each[1])
    end
  end
  for _, each in ipairs(a.uploads) do
    local id, record = each[1], upload_key(each[1])
    local owner = field(record, 'owner')
    if owner and is_kept(record, a.now) then
      local complete = field(record, 'complete') == '1' and 1 or 0
      corrected = corrected + redis.call('ZADD', uploads_key(owner), 'CH', complete, id)
      if not field(charges_key(owner), upload_object(id)) then
        set_charge(owner, upload_object(id), number(field(record, 'length')) or 0)
      end
    end
  end
  return corrected
end

-- Adds up an owner's charges again, unless there are too many.
-- Arguments: owner.  Returns 1 if the sum was wrong.
commands.add_up = function(a)
  local charges, bytes = charges_key(a.owner), 0
  if redis.call('HLEN', charges) > MOST_ADDED_UP then
    return 0
  end
  for _, value in ipairs(redis.call('HVALS', charges)) do
    bytes = bytes + (number(value) or 0)
  end
  local wrong = bytes ~= stored_by(a.owner)
  if redis.call('EXISTS', charges, pending_key(a.owner), uploads_key(a.owner)) > 0 then
    redis.call('HSET', STORED, a.owner, whole(bytes))
  else
    redis.call('HDEL', STORED, a.owner)
  end
  return wrong and 1 or 0
end

-- Forgets reservations that have lapsed; `release_unheld` releases what they held.
-- Arguments: now.
commands.lapse = function(a)
  redis.call('ZREMRANGEBYSCORE', RESERVED, '-inf', a.now)
end

for _, name in ipairs({'release_charges', 'release_unheld', 'add_up', 'lapse'}) do
  even_if_full[name] = true
end
