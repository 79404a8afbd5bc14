-- Resumable uploads: their records, and what their owner has.
--
-- key                     type   what for                                             expiry
-- rmbg:uploads            zset   resumable uploads by expiry                          none
-- rmbg:upload:<id>        hash   the record of an upload                              its own
-- rmbg:upload:<id>:lock   string the token of the request that writes to it           4 s
-- rmbg:upload:<id>:wanted string another request waits for that lock                  short

local UPLOADS = P .. 'uploads'

-- Takes an upload from what its owner has.
local function release_upload(id)
  local owner = field(upload_key(id), 'owner')
  if owner then
    release_charge(owner, upload_object(id))
    redis.call('ZREM', uploads_key(owner), id)
  end
end

-- Records an upload, and charges its whole length; or nothing.
-- Arguments: id, owner, fields, expires_at, expiry (of the record, unix seconds), length, complete
-- (boolean), quota (the limits bytes, uploads, which is that of unfinished ones, and kept; those of
-- `charge`), reservation (see `keep_reservation`).
-- Returns the refusal ('bytes', 'uploads', 'kept' or ''), and what `usage` gives.
commands.create_upload = function(a)
  local uploads, length = uploads_key(a.owner), tonumber(a.length)
  if not a.complete and exceeds(redis.call('ZCOUNT', uploads, 0, 0) + 1, a.quota.uploads) then
    return usage(a, 'uploads')
  end
  if exceeds(redis.call('ZCARD', uploads) + 1, a.quota.kept) then
    return usage(a, 'kept')
  end
  if exceeds(stored_by(a.owner) + length, a.quota.bytes) then
    return usage(a, 'bytes')
  end
  redis.call('HSET', upload_key(a.id), unpack(flat(a.fields)))
  redis.call('EXPIREAT', upload_key(a.id), a.expiry)
  redis.call('ZADD', UPLOADS, a.expires_at, a.id)
  redis.call('ZADD', uploads, a.complete and 1 or 0, a.id)
  set_charge(a.owner, upload_object(a.id), length)
  keep_reservation(a.reservation)
  return usage(a)
end

-- Writes fields of an upload, if the caller still holds its lock.
-- Arguments: id, token, fields.  Returns 1 if it did.
commands.update_upload = function(a)
  local record = upload_key(a.id)
  if redis.call('GET', record .. ':lock') ~= a.token or redis.call('EXISTS', record) == 0 then
    return 0
  end
  redis.call('HSET', record, unpack(flat(a.fields)))
  if field(record, 'complete') == '1' then
    redis.call('ZADD', uploads_key(field(record, 'owner') or ''), 'XX', 1, a.id)
  end
  return 1
end

-- Releases what was charged for an upload whose bytes are erased; its record stays.
-- Arguments: id.
commands.release_upload = function(a)
  release_upload(a.id)
end

-- Removes an upload's record.
-- Arguments: id.
commands.remove_upload = function(a)
  release_upload(a.id)
  redis.call('DEL', upload_key(a.id), upload_key(a.id) .. ':wanted')
  redis.call('ZREM', UPLOADS, a.id)
end

for _, name in ipairs({'release_upload', 'remove_upload'}) do
  even_if_full[name] = true
end
