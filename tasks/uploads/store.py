"""Resumable uploads in Redis: their records, and the lock that a later request can take over."""

import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Protocol, Self, cast

import structlog
from redis import Redis
from redis.exceptions import RedisError

from tasks import lua_scripts, redis_keys
from tasks.errors import LockLostError, UploadLockedError
from tasks.lua_scripts import move_member, set_absent
from tasks.object_store import upload_prefix
from tasks.quotas import UNLIMITED, Quota, Usage
from tasks.redis_client import redis_errors

#: Size of a part; S3 takes no smaller ones but for the last.
PART_BYTES: Final = 5 * 2**20
#: How long an upload's record is kept after its bytes, so that 410 is answered and not 404.
UPLOAD_GRACE_SECONDS: Final = 24 * 3600
#: Life of a lock that is not renewed: how long a killed process blocks an upload.
LOCK_MS: Final = 4000
#: Longer than that, so that one request can outwait the lock of a killed process.
LOCK_WAIT_SECONDS: Final = 8.0
#: How long a request for the lock stands.
_TAKEOVER_MS: Final = 3000
_LOCK_RENEW_SECONDS: Final = 1.0
_LOCK_POLL_SECONDS: Final = 0.1
#: A holder whose client has sent nothing for so long loses the lock when another request waits.
_LOCK_IDLE_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ResumableUpload:
    """The record of an upload. Times are unix seconds, sizes bytes.

    The bytes received so far are the parts of a multipart upload, each of `PART_BYTES`, followed by
    the object `tail`, which is too small to be a part.

    Attributes:
        upload_id: its id, which cannot be guessed.
        owner: id of the owner that created it.
        length: of the whole file.
        offset: number of bytes received.
        metadata: the header `Upload-Metadata`, verbatim.
        file_name: as the client calls it; not to be trusted.
        multipart_id: the object store's id of the multipart upload, if there is one.
        etags: of the parts, in order.
        tail: key of the bytes after the last whole part; empty if there are none.
        complete: the whole file is stored under `key`.
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
        """The key of the whole file."""
        return f"{upload_prefix(self.upload_id)}whole"

    def tail_key(self, offset: int) -> str:
        """Return the key of the tail at an offset."""
        return f"{upload_prefix(self.upload_id)}tail-{offset}"

    def to_record(self) -> dict[str, str]:
        """Return the record as a Redis hash."""
        texts = {name: str(value) for name, value in asdict(self).items()}
        return {**texts, "etags": json.dumps(self.etags), "complete": str(int(self.complete))}

    @classmethod
    def from_record(cls, record: dict[str, str]) -> Self:
        """Parse a Redis hash."""
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


class Body(Protocol):
    """The body of a request."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes; none at the end, or if the client is gone."""


class UploadLock:
    """Holds an upload's lock for a block of code, and renews it in a thread.

    Raises:
        UploadLockedError: on entering, if the present holder did not release it in time.
        QueueUnavailableError: on entering, if Redis does not answer.
    """

    def __init__(
        self, client: Redis, upload_id: str, *, wait_seconds: float = LOCK_WAIT_SECONDS
    ) -> None:
        self._client = client
        self._upload_id = upload_id
        self._key = redis_keys.upload_lock_key(upload_id)
        self._takeover_key = redis_keys.upload_takeover_key(upload_id)
        self._wait_seconds = wait_seconds
        self._ended = threading.Event()
        self._takeover = threading.Event()
        self._reading_since: float | None = None
        self._keeper = threading.Thread(target=self._keep, name="upload-lock", daemon=True)
        self.token = secrets.token_hex(8)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._wait_seconds
        with redis_errors():
            seconds = LOCK_MS / 1000
            while not set_absent(self._client, self._key, self.token, seconds=seconds):
                if time.monotonic() > deadline:
                    raise UploadLockedError(
                        "Another request is writing to this upload; try again in a few seconds."
                    )
                # Asks the holder to stop after its current chunk.
                self._client.set(self._takeover_key, "1", px=_TAKEOVER_MS)
                time.sleep(_LOCK_POLL_SECONDS)
            # The key asked the last holder to stop. This request would obey it too, though it set
            # the key itself; others that wait set it again.
            self._client.delete(self._takeover_key)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        try:
            self._release()
        except RedisError:
            _log.warning("upload.lock_left", upload_id=self._upload_id)
        self._keeper.join(timeout=_LOCK_RENEW_SECONDS * 5)

    def _release(self) -> None:
        lua_scripts.PRIMITIVES.run(
            self._client, "compare_and_set", key=self._key, expected=self.token
        )

    @property
    def takeover_requested(self) -> bool:
        """True once another request waits for the lock: the holder stops, and keeps its bytes."""
        return self._takeover.is_set()

    def read(self, body: Body, size: int) -> bytes:
        """Read from the holder's client, while whose silence the lock can be taken over."""
        self._reading_since = time.monotonic()
        try:
            return body.read(size)
        finally:
            self._reading_since = None

    def _keep(self) -> None:
        while not self._ended.wait(_LOCK_RENEW_SECONDS):
            try:
                if self._client.exists(self._takeover_key):
                    self._takeover.set()
                    since = self._reading_since
                    if since is not None and time.monotonic() - since > _LOCK_IDLE_SECONDS:
                        # At once: the other one waits about as long as a lock takes to expire.
                        self._release()
                        return
                renewed = lua_scripts.PRIMITIVES.run(
                    self._client,
                    "compare_and_expire",
                    key=self._key,
                    expected=self.token,
                    ms=LOCK_MS,
                )
                if not renewed:
                    return
            except RedisError:
                # If that lasts, the lock expires, and later writes are refused.
                _log.warning("upload.lock_not_renewed", upload_id=self._upload_id)


class UploadStore:
    """The records; every method raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def create(
        self,
        upload: ResumableUpload,
        quota: Quota = UNLIMITED,
        *,
        reservation: Mapping[str, str] | None = None,
    ) -> Usage:
        """Write a new record, and charge its owner the whole length; returns what that one has.

        `reservation` is of the request's Idempotency-Key, which is kept with it; see
        `JobStore.create`.

        Raises:
            QuotaExceededError: the owner's quota has no room; nothing was written.
        """
        with redis_errors():
            answer = lua_scripts.UPLOADS.run(
                self._client,
                "create_upload",
                id=upload.upload_id,
                owner=upload.owner,
                fields=upload.to_record(),
                expires_at=upload.expires_at,
                expiry=int(upload.expires_at + UPLOAD_GRACE_SECONDS),
                length=upload.length,
                complete=upload.complete,
                quota=quota.to_lua(),
                reservation=reservation,
            )
        return Usage.read(answer, quota)

    def lock(self, upload_id: str, *, wait_seconds: float = LOCK_WAIT_SECONDS) -> UploadLock:
        """Return the lock of an upload, not yet taken."""
        return UploadLock(self._client, upload_id, wait_seconds=wait_seconds)

    def get(self, upload_id: str) -> ResumableUpload | None:
        """Return an upload, or None."""
        if not redis_keys.is_id(upload_id):
            return None
        with redis_errors():
            record = self._client.hgetall(redis_keys.upload_key(upload_id))
        return ResumableUpload.from_record(cast("dict[str, str]", record)) if record else None

    def recorded(self, upload_ids: list[str]) -> set[str]:
        """Return those of the ids that have a record."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for upload_id in upload_ids:
                pipe.exists(redis_keys.upload_key(upload_id))
            found = pipe.execute()
        return {each for each, there in zip(upload_ids, found, strict=True) if there}

    def commit(self, upload: ResumableUpload, token: str) -> None:
        """Update a record, fenced by the lock: a process that slept through its lock cannot write.

        Raises:
            LockLostError: the token no longer holds the lock, or the upload was removed.
        """
        with redis_errors():
            written = lua_scripts.UPLOADS.run(
                self._client,
                "update_upload",
                id=upload.upload_id,
                token=token,
                fields=upload.to_record(),
            )
        if not written:
            raise LockLostError(f"Another request has taken over the upload {upload.upload_id}.")

    def remove(self, upload_id: str) -> None:
        """Remove an upload's record, and release what its owner was charged."""
        with redis_errors():
            lua_scripts.UPLOADS.run(self._client, "remove_upload", id=upload_id)

    def release(self, upload_id: str) -> None:
        """Release what an upload's owner was charged for its bytes, which are erased."""
        with redis_errors():
            lua_scripts.UPLOADS.run(self._client, "release_upload", id=upload_id)

    def expired(self, now: float) -> list[str]:
        """Return the ids of uploads that had expired at `now`."""
        with redis_errors():
            return cast("list[str]", self._client.zrangebyscore(redis_keys.UPLOADS, "-inf", now))

    def postpone(self, upload_id: str, until: float) -> None:
        """Have `expired` return an upload again from a unix time on."""
        with redis_errors():
            move_member(self._client, redis_keys.UPLOADS, upload_id, until)
