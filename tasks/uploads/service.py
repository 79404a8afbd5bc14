"""Resumable uploads: create, append with offset and checksum, read, end and erase."""

import hmac
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from tasks.errors import (
    ChecksumMismatchError,
    ObjectNotFoundError,
    OffsetMismatchError,
    UploadExpiredError,
    UploadNotFoundError,
    UploadTooLongError,
    UploadUnfinishedError,
)
from tasks.jobs.job import random_word
from tasks.object_store import ObjectStore, upload_prefix
from tasks.quotas import UNLIMITED, Quota
from tasks.uploads.store import PART_BYTES, Body, ResumableUpload, UploadLock, UploadStore

_MEDIA_TYPE: Final = "application/octet-stream"
_CHUNK_BYTES: Final = 2**16


class Hash(Protocol):
    """A hash of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the hash of all bytes."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum that a client announces for a chunk.

    Attributes:
        hash: of the bytes received so far.
        digest: announced.
    """

    hash: Hash
    digest: bytes

    @property
    def matches(self) -> bool:
        """True if the bytes received so far have the announced digest."""
        return hmac.compare_digest(self.hash.digest(), self.digest)


class UploadWriter:
    """Writes the body of one request to an upload, while that request holds the upload's lock."""

    def __init__(
        self, store: UploadStore, object_store: ObjectStore, upload: ResumableUpload, token: str
    ) -> None:
        self._store = store
        self._object_store = object_store
        self._token = token
        self._upload = upload
        self._rest = bytearray()

    def append(self, chunks: Iterable[bytes], checksum: Checksum | None = None) -> ResumableUpload:
        """Store and record chunks, and return the upload after that.

        If the chunks end early, what has come is kept.

        Args:
            chunks: the bytes after the current offset, not beyond the upload's length.
            checksum: of all of them; nothing is recorded unless it matches.

        Raises:
            ChecksumMismatchError: nothing of the chunks was kept.
            ObjectStoreUnavailableError, QueueUnavailableError: what was recorded so far is kept.
        """
        before = self._upload
        self._rest = bytearray(self._object_store.get(before.tail) if before.tail else b"")
        try:
            for chunk in chunks:
                if checksum:
                    checksum.hash.update(chunk)
                self._add(chunk, record=checksum is None)
            if checksum and not checksum.matches:
                raise ChecksumMismatchError(
                    "The chunk does not match its checksum; send it again from the same offset."
                )
            self._close(before)
        except ObjectNotFoundError as error:
            if self._object_store.size(before.key) != before.length:
                raise ObjectNotFoundError(
                    f"The upload {before.upload_id} has lost its parts."
                ) from error
            # A process completed the upload and died before it recorded that.
            self._record(_completed(before))
        return self._upload

    def _add(self, chunk: bytes, *, record: bool) -> None:
        self._rest += chunk
        while len(self._rest) >= PART_BYTES:
            self._put_part(bytes(self._rest[:PART_BYTES]))
            del self._rest[:PART_BYTES]
            # The last byte is recorded once the upload is complete: a client that is told of it
            # sends no more, and nothing else would complete it.
            if record and self._upload.offset < self._upload.length:
                self._record(self._upload)

    def _put_part(self, data: bytes) -> None:
        upload = self._upload
        if not upload.multipart_id:
            begun = self._object_store.begin_multipart(upload.key)
            upload = replace(upload, multipart_id=begun)
            # Recorded at once, so that the sweeper finds it if this process dies.
            self._store.commit(upload, self._token)
        number = len(upload.etags) + 1
        etag = self._object_store.put_part(upload.key, upload.multipart_id, number, data)
        offset = (number - 1) * PART_BYTES + len(data)
        self._upload = replace(upload, etags=(*upload.etags, etag), offset=offset, tail="")

    def _close(self, before: ResumableUpload) -> None:
        """Complete the upload, or keep what follows its last part as the tail."""
        offset = len(self._upload.etags) * PART_BYTES + len(self._rest)
        if offset == self._upload.length:
            self._complete()
        elif offset != before.offset:
            tail = self._upload.tail_key(offset) if self._rest else ""
            if tail:
                self._put(tail)
            self._record(replace(self._upload, offset=offset, tail=tail))
        if before.tail and before.tail != self._upload.tail:
            self._object_store.delete(before.tail)

    def _complete(self) -> None:
        if self._upload.multipart_id:
            if self._rest:
                self._put_part(bytes(self._rest))
            upload = self._upload
            self._object_store.complete_multipart(upload.key, upload.multipart_id, upload.etags)
        else:
            self._put(self._upload.key)
        self._record(_completed(self._upload))

    def _put(self, key: str) -> None:
        self._object_store.put(key, io.BytesIO(self._rest), len(self._rest), _MEDIA_TYPE)

    def _record(self, upload: ResumableUpload) -> None:
        self._store.commit(upload, self._token)
        self._upload = upload


def new_upload_id() -> str:
    """Draw the id of an upload, which cannot be guessed."""
    return f"up-{random_word()}"


def _completed(upload: ResumableUpload) -> ResumableUpload:
    return replace(upload, offset=upload.length, complete=True, multipart_id="", etags=(), tail="")


@dataclass(frozen=True, slots=True)
class UploadService:
    """Creates, fills, reads and removes uploads.

    Every method raises `ObjectStoreUnavailableError` or `QueueUnavailableError` if a server does
    not answer.

    Attributes:
        seconds: how long an upload is kept after its creation.
    """

    store: UploadStore
    object_store: ObjectStore
    seconds: float
    clock: Callable[[], float] = time.time

    def create(
        self,
        owner: str,
        length: int,
        *,
        metadata: str = "",
        file_name: str = "",
        quota: Quota = UNLIMITED,
        upload_id: str | None = None,
        reservation: Mapping[str, str] | None = None,
    ) -> ResumableUpload:
        """Create an upload of `length` bytes, which are charged to its owner at once.

        It gets a fresh id, unless one is given. `reservation` is of the request's Idempotency-Key,
        which is kept with the record; see `JobStore.create`.

        Raises:
            QuotaExceededError: the owner's quota has no room; nothing was kept.
        """
        now = self.clock()
        upload = ResumableUpload(
            upload_id=upload_id or new_upload_id(),
            owner=owner,
            length=length,
            created_at=now,
            expires_at=now + self.seconds,
            metadata=metadata,
            file_name=file_name,
        )
        upload = replace(upload, complete=length == 0)
        if upload.complete:
            # Before its record, with which the key of its request is used up.
            self.object_store.put(upload.key, io.BytesIO(), 0, _MEDIA_TYPE)
        self.store.create(upload, quota, reservation=reservation)
        return upload

    def find(self, owner: str, upload_id: str) -> ResumableUpload | None:
        """Return an upload, which another request may write to; None if there is none.

        Raises:
            UploadExpiredError: it has expired.
        """
        try:
            return self._found(owner, upload_id)
        except UploadNotFoundError:
            return None

    def status(self, owner: str, upload_id: str) -> ResumableUpload:
        """Return an upload once no other request writes to it, so that its offset is final.

        Raises:
            UploadNotFoundError, UploadExpiredError, UploadLockedError: it cannot be read.
        """
        with self._locked(owner, upload_id) as (upload, _):
            return upload

    def append(
        self,
        owner: str,
        upload_id: str,
        offset: int,
        body: Body,
        *,
        announced: int | None = None,
        checksum: Checksum | None = None,
    ) -> ResumableUpload:
        """Append a chunk to an upload, and return the upload after that.

        The chunk begins at `offset`. Its announced length and its checksum are checked if the
        client gave them.

        Raises:
            UploadNotFoundError, UploadExpiredError, UploadLockedError: it cannot be written to.
            OffsetMismatchError: the chunk does not begin at the upload's offset.
            UploadTooLongError: the chunk reaches beyond the upload's length.
            ChecksumMismatchError: the chunk was damaged on its way, and none of it was kept.
        """
        with self._locked(owner, upload_id) as (upload, lock):
            if offset != upload.offset:
                raise OffsetMismatchError(
                    f"The upload's offset is {upload.offset}, and the chunk begins at {offset}."
                )
            left = upload.length - upload.offset
            if announced is not None and announced > left:
                raise UploadTooLongError(
                    f"The chunk has {announced} bytes, and the upload lacks only {left}."
                )
            if upload.complete:
                return upload
            writer = UploadWriter(self.store, self.object_store, upload, lock.token)
            return writer.append(_read_chunks(body, left, lock), checksum)

    def end(self, owner: str, upload_id: str) -> None:
        """Remove an upload with its bytes, complete or not.

        Raises:
            UploadNotFoundError, UploadExpiredError, UploadLockedError: it cannot be removed.
        """
        with self._locked(owner, upload_id) as (upload, _):
            self.store.remove(upload_id)
            self.erase(upload)

    def erase(self, upload: ResumableUpload) -> None:
        """Remove an upload's bytes from the bucket."""
        if upload.multipart_id:
            self.object_store.abort_multipart(upload.key, upload.multipart_id)
        for key in self.object_store.list(upload_prefix(upload.upload_id)):
            self.object_store.delete(key)
        self.store.release(upload.upload_id)

    def complete(self, owner: str, upload_id: str) -> ResumableUpload:
        """Return an upload, all of which is there.

        Raises:
            UploadNotFoundError, UploadExpiredError: it does not exist, or no longer.
            UploadUnfinishedError: some of its bytes are missing.
        """
        upload = self._found(owner, upload_id)
        if not upload.complete:
            missing = upload.length - upload.offset
            raise UploadUnfinishedError(
                f"The upload {upload_id} still lacks {missing} bytes; send these first."
            )
        return upload

    def open(self, owner: str, upload_id: str) -> tuple[Iterator[bytes], ResumableUpload]:
        """Return the chunks of a complete upload, which one call to the store fetches in turn.

        Raises what `complete` does.
        """
        upload = self.complete(owner, upload_id)
        return self.object_store.chunks(upload.key), upload

    @contextmanager
    def _locked(self, owner: str, upload_id: str) -> Iterator[tuple[ResumableUpload, UploadLock]]:
        """Hold an upload's lock, and yield the upload as it is once no other request writes."""
        self._found(owner, upload_id)
        with self.store.lock(upload_id) as lock:
            yield self._found(owner, upload_id), lock

    def _found(self, owner: str, upload_id: str) -> ResumableUpload:
        upload = self.store.get(upload_id)
        if upload is None or upload.owner != owner:
            raise UploadNotFoundError("There is no such upload, or it has been ended.")
        if upload.expires_at <= self.clock():
            raise UploadExpiredError(f"The upload {upload_id} has expired.")
        return upload


def _read_chunks(body: Body, left: int, lock: UploadLock) -> Iterator[bytes]:
    """Yield the body until it ends, the client is gone, or another request waits for the lock."""
    while left > 0 and not lock.takeover_requested:
        chunk = lock.read(body, min(_CHUNK_BYTES, left))
        if not chunk:
            return
        left -= len(chunk)
        yield chunk
