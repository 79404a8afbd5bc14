"""Records of resumable uploads in Redis, and the lock that a later request takes over."""

import json
import secrets
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, cast

import structlog
from redis import Redis

from tasks import redis_keys
from tasks.errors import LockLostError, QueueUnavailableError, UploadLockedError
from tasks.redis_client import redis_errors
from tasks.storage import object_keys

#: Every part of an S3 multipart upload but the last one must have at least so many bytes.
PART_BYTES: Final = 5 * 2**20

#: An expired upload's record outlives its bytes by this, so that 410 can be told from 404.
UPLOAD_GRACE_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class ResumableUpload:
    """An upload's record. Times are unix seconds, sizes bytes.

    The bytes so far are `parts` parts of `PART_BYTES` in the multipart upload, then what the
    object `tail` holds, which is too small to be a part.

    Attributes:
        upload_id: its name, which cannot be guessed.
        owner: id of whoever began it.
        length: of the whole file.
        offset: how many bytes there are.
        metadata: the header `Upload-Metadata`, as it came.
        file_name: as its sender calls it; not to be trusted.
        multipart_id: the store's name of the multipart upload, once there is one.
        etags: of the parts, in order.
        tail: key of the bytes after the last whole part; empty if there are none.
        complete: the file lies whole under `key`.
    """

    upload_id: str
    owner: str
    length: int
    created_at: float
    expires_at: float
    offset: int = 0
    metadata: str = ""
    file_name: str = ""
    multipart_id: str = ""
    etags: tuple[str, ...] = ()
    tail: str = ""
    complete: bool = False

    @property
    def key(self) -> str:
        """Where the whole file lies, once it is whole."""
        return f"{object_keys.upload_prefix(self.upload_id)}whole"

    def tail_key(self, offset: int) -> str:
        """Where the tail lies while the upload has so many bytes."""
        return f"{object_keys.upload_prefix(self.upload_id)}tail-{offset}"

    def evolve(self, **changes: Any) -> Self:  # noqa: ANN401 - any field's type
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_record(self) -> dict[str, str]:
        """As a Redis hash."""
        return {
            "upload_id": self.upload_id,
            "owner": self.owner,
            "length": str(self.length),
            "created_at": repr(self.created_at),
            "expires_at": repr(self.expires_at),
            "offset": str(self.offset),
            "metadata": self.metadata,
            "file_name": self.file_name,
            "multipart_id": self.multipart_id,
            "etags": json.dumps(self.etags),
            "tail": self.tail,
            "complete": str(int(self.complete)),
        }

    @classmethod
    def from_record(cls, record: dict[str, str]) -> Self:
        """The inverse of `to_record`."""
        return cls(
            upload_id=record["upload_id"],
            owner=record["owner"],
            length=int(record["length"]),
            created_at=float(record["created_at"]),
            expires_at=float(record["expires_at"]),
            offset=int(record["offset"]),
            metadata=record["metadata"],
            file_name=record["file_name"],
            multipart_id=record["multipart_id"],
            etags=tuple(json.loads(record["etags"])),
            tail=record["tail"],
            complete=record["complete"] == "1",
        )


#: A process that stood still for longer than its lock lasts must not write any more.
_COMMIT_SCRIPT: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""

_UNLOCK_SCRIPT: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""

_RENEW_SCRIPT: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""

#: How long a lock lasts unless it is renewed: so long a killed process keeps an upload.
LOCK_MS: Final = 4000

_TAKEOVER_MS: Final = 3000


class UploadStore:
    """Every method raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._commit = client.register_script(_COMMIT_SCRIPT)
        self._release = client.register_script(_UNLOCK_SCRIPT)
        self._renew = client.register_script(_RENEW_SCRIPT)

    def create(self, upload: ResumableUpload) -> None:
        """Write a new record."""
        name = redis_keys.upload_key(upload.upload_id)
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(name, items=[part for pair in upload.to_record().items() for part in pair])
            pipe.expireat(name, int(upload.expires_at + UPLOAD_GRACE_SECONDS))
            pipe.zadd(redis_keys.UPLOADS, {upload.upload_id: upload.expires_at})
            pipe.execute()

    def get(self, upload_id: str) -> ResumableUpload | None:
        """The record, or None."""
        with redis_errors():
            record = self._client.hgetall(redis_keys.upload_key(upload_id))
        return ResumableUpload.from_record(cast("dict[str, str]", record)) if record else None

    def recorded(self, upload_ids: list[str]) -> set[str]:
        """Those of the ids that have a record."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for upload_id in upload_ids:
                pipe.exists(redis_keys.upload_key(upload_id))
            found = pipe.execute()
        return {each for each, there in zip(upload_ids, found, strict=True) if there}

    def commit(self, upload: ResumableUpload, token: str) -> None:
        """Write a record anew.

        Raises:
            LockLostError: the lock is no longer this token's, or the upload was ended.
        """
        flat = [part for pair in upload.to_record().items() for part in pair]
        names = [
            redis_keys.upload_key(upload.upload_id),
            redis_keys.upload_lock_key(upload.upload_id),
        ]
        with redis_errors():
            written = self._commit(keys=names, args=[token, *flat])
        if not written:
            raise LockLostError(f"The upload {upload.upload_id} is another request's by now.")

    def remove(self, upload_id: str) -> None:
        """Forget an upload altogether."""
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.delete(redis_keys.upload_key(upload_id), redis_keys.upload_takeover_key(upload_id))
            pipe.zrem(redis_keys.UPLOADS, upload_id)
            pipe.execute()

    def expired(self, now: float) -> list[str]:
        """The ids of uploads whose time was over at `now`."""
        with redis_errors():
            return cast("list[str]", self._client.zrangebyscore(redis_keys.UPLOADS, "-inf", now))

    def postpone(self, upload_id: str, until: float) -> None:
        """Look at an expired upload again at a later time."""
        with redis_errors():
            self._client.zadd(redis_keys.UPLOADS, {upload_id: until}, xx=True)

    def lock(self, upload_id: str, token: str) -> bool:
        """Take the lock, if nobody has it."""
        with redis_errors():
            return bool(
                self._client.set(redis_keys.upload_lock_key(upload_id), token, nx=True, px=LOCK_MS)
            )

    def renew(self, upload_id: str, token: str) -> bool:
        """Prolong the lock; False when it is no longer ours."""
        with redis_errors():
            return bool(
                self._renew(keys=[redis_keys.upload_lock_key(upload_id)], args=[token, LOCK_MS])
            )

    def unlock(self, upload_id: str, token: str) -> None:
        """Give the lock back, if it is still ours."""
        with redis_errors():
            self._release(keys=[redis_keys.upload_lock_key(upload_id)], args=[token])

    def want(self, upload_id: str) -> None:
        """Ask the holder of the lock to stop at the next piece."""
        with redis_errors():
            self._client.set(redis_keys.upload_takeover_key(upload_id), "1", px=_TAKEOVER_MS)

    def wanted(self, upload_id: str) -> bool:
        """Is somebody else waiting for the lock?"""
        with redis_errors():
            return bool(self._client.exists(redis_keys.upload_takeover_key(upload_id)))


#: Longer than a lock lasts, so that the upload of a killed process is had within one request.
LOCK_WAIT_SECONDS: Final = 8.0

_LOCK_RENEW_SECONDS: Final = 1.0

_LOCK_POLL_SECONDS: Final = 0.1

#: A holder that is asked to stop and got nothing from its client for so long loses the lock.
_LOCK_IDLE_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class UploadLock:
    """Holds an upload's lock for a block of code, and renews it meanwhile.

    Raises:
        UploadLockedError: on entering, when nobody gave it up in time.
    """

    def __init__(
        self, store: UploadStore, upload_id: str, *, wait_seconds: float = LOCK_WAIT_SECONDS
    ) -> None:
        self._store = store
        self._upload_id = upload_id
        self._wait_seconds = wait_seconds
        self._ended = threading.Event()
        self._wanted = threading.Event()
        self._reading_since: float | None = None
        self._keeper = threading.Thread(target=self._keep, name="upload-lock", daemon=True)
        self.token = secrets.token_hex(8)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._wait_seconds
        while not self._store.lock(self._upload_id, self.token):
            if time.monotonic() > deadline:
                raise UploadLockedError("Another request is writing to this upload.")
            self._store.want(self._upload_id)
            time.sleep(_LOCK_POLL_SECONDS)
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        try:
            self._store.unlock(self._upload_id, self.token)
        except QueueUnavailableError:
            _log.warning("upload.lock_left", upload_id=self._upload_id)
        self._keeper.join(timeout=_LOCK_RENEW_SECONDS * 5)

    @property
    def wanted(self) -> bool:
        """Somebody waits for the lock: stop here, and keep what has come."""
        return self._wanted.is_set()

    def reading(self) -> None:
        """From here on this request waits for its client."""
        self._reading_since = time.monotonic()

    def working(self) -> None:
        """The client has sent something: what follows is the server's own work."""
        self._reading_since = None

    def _keep(self) -> None:
        while not self._ended.wait(_LOCK_RENEW_SECONDS):
            try:
                if self._store.wanted(self._upload_id):
                    self._wanted.set()
                    if self._stands_still():
                        return
                if not self._store.renew(self._upload_id, self.token):
                    return
            except QueueUnavailableError:
                # Should it last, the lock runs out, and no write is taken any more.
                _log.warning("upload.lock_not_renewed", upload_id=self._upload_id)

    def _stands_still(self) -> bool:
        since = self._reading_since
        return since is not None and time.monotonic() - since > _LOCK_IDLE_SECONDS
