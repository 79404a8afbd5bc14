"""The records of uploads in Redis; whoever writes one holds its lock, and every write proves it."""

from typing import Final, cast

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.uploads.errors import LockLostError
from tasks.uploads.record import GRACE_SECONDS, PieceUpload

#: A process that stood still for longer than its lock lasts must not write any more.
_COMMIT: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""
_RENEW: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""
#: How long a lock lasts unless it is renewed: so long a killed process keeps an upload.
LOCK_MS: Final = 4000
_WANTED_MS: Final = 3000


class UploadStore:
    """Every method raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._commit = client.register_script(_COMMIT)
        self._release = client.register_script(_RELEASE)
        self._renew = client.register_script(_RENEW)

    def create(self, upload: PieceUpload) -> None:
        """Write a new record."""
        name = keys.upload_key(upload.upload_id)
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(name, items=[part for pair in upload.to_record().items() for part in pair])
            pipe.expireat(name, int(upload.expires_at + GRACE_SECONDS))
            pipe.zadd(keys.UPLOADS, {upload.upload_id: upload.expires_at})
            pipe.execute()

    def get(self, upload_id: str) -> PieceUpload | None:
        """The record, or None."""
        with redis_errors():
            record = self._client.hgetall(keys.upload_key(upload_id))
        return PieceUpload.from_record(cast("dict[str, str]", record)) if record else None

    def recorded(self, upload_ids: list[str]) -> set[str]:
        """Those of the ids that have a record."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for upload_id in upload_ids:
                pipe.exists(keys.upload_key(upload_id))
            found = pipe.execute()
        return {each for each, there in zip(upload_ids, found, strict=True) if there}

    def commit(self, upload: PieceUpload, token: str) -> None:
        """Write a record anew.

        Raises:
            LockLostError: the lock is no longer this token's, or the upload was ended.
        """
        flat = [part for pair in upload.to_record().items() for part in pair]
        names = [keys.upload_key(upload.upload_id), keys.upload_lock(upload.upload_id)]
        with redis_errors():
            written = self._commit(keys=names, args=[token, *flat])
        if not written:
            raise LockLostError(f"The upload {upload.upload_id} is another request's by now.")

    def remove(self, upload_id: str) -> None:
        """Forget an upload altogether."""
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.delete(keys.upload_key(upload_id), keys.upload_wanted(upload_id))
            pipe.zrem(keys.UPLOADS, upload_id)
            pipe.execute()

    def expired(self, now: float) -> list[str]:
        """The ids of uploads whose time was over at `now`."""
        with redis_errors():
            return cast("list[str]", self._client.zrangebyscore(keys.UPLOADS, "-inf", now))

    def postpone(self, upload_id: str, until: float) -> None:
        """Look at an expired upload again at a later time."""
        with redis_errors():
            self._client.zadd(keys.UPLOADS, {upload_id: until}, xx=True)

    def lock(self, upload_id: str, token: str) -> bool:
        """Take the lock, if nobody has it."""
        with redis_errors():
            return bool(self._client.set(keys.upload_lock(upload_id), token, nx=True, px=LOCK_MS))

    def renew(self, upload_id: str, token: str) -> bool:
        """Prolong the lock; False when it is no longer ours."""
        with redis_errors():
            return bool(self._renew(keys=[keys.upload_lock(upload_id)], args=[token, LOCK_MS]))

    def unlock(self, upload_id: str, token: str) -> None:
        """Give the lock back, if it is still ours."""
        with redis_errors():
            self._release(keys=[keys.upload_lock(upload_id)], args=[token])

    def want(self, upload_id: str) -> None:
        """Ask the holder of the lock to stop at the next piece."""
        with redis_errors():
            self._client.set(keys.upload_wanted(upload_id), "1", px=_WANTED_MS)

    def wanted(self, upload_id: str) -> bool:
        """Is somebody else waiting for the lock?"""
        with redis_errors():
            return bool(self._client.exists(keys.upload_wanted(upload_id)))
