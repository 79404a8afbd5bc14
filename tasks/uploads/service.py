"""Resumable uploads: create, append with offset and checksum, read, end and erase."""

import hmac
import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

import urllib3
from redis import Redis

from tasks import redis_keys
from tasks.errors import (
    ChecksumMismatchError,
    ObjectNotFoundError,
    OffsetMismatchError,
    UploadExpiredError,
    UploadNotFoundError,
    UploadTooLongError,
    UploadUnfinishedError,
)
from tasks.settings import Settings
from tasks.storage import object_keys
from tasks.storage.multipart import LargeObjectStore, ObjectStream
from tasks.storage.object_store import ObjectStore
from tasks.uploads.store import PART_BYTES, ResumableUpload, UploadLock, UploadStore

_MEDIA_TYPE = "application/octet-stream"


class Hash(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """The hash of all bytes."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of a piece must hash to."""

    hash: Hash
    digest: bytes

    @property
    def right(self) -> bool:
        """Do the bytes so far hash to it?"""
        return hmac.compare_digest(self.hash.digest(), self.digest)


class UploadWriter:
    """Writes one piece; made for it, by the holder of the upload's lock."""

    def __init__(
        self,
        store: UploadStore,
        objects: ObjectStore,
        large: LargeObjectStore,
        upload: ResumableUpload,
        token: str,
    ) -> None:
        self._store = store
        self._objects = objects
        self._large = large
        self._token = token
        self._upload = upload
        self._rest = bytearray()

    def append(self, chunks: Iterable[bytes], checksum: Checksum | None = None) -> ResumableUpload:
        """Add what comes, and record it; all of it that came, should the chunks end early.

        Args:
            chunks: the bytes after the present offset, none of them beyond the length.
            checksum: of all of them; nothing is recorded unless they fit.

        Raises:
            ChecksumMismatchError: nothing of the piece was kept.
            StoreUnavailableError, QueueUnavailableError: what was recorded so far stays.
        """
        before = self._upload
        self._rest = bytearray(self._objects.get(before.tail) if before.tail else b"")
        try:
            for chunk in chunks:
                if checksum:
                    checksum.hash.update(chunk)
                self._add(chunk, record=checksum is None)
            if checksum and not checksum.right:
                raise ChecksumMismatchError("The piece is not what its checksum says.")
            self._close(before)
        except ObjectNotFoundError:
            self._upload = self._completed_before(before)
        return self._upload

    def _add(self, chunk: bytes, *, record: bool) -> None:
        self._rest += chunk
        while len(self._rest) >= PART_BYTES:
            self._put_part(bytes(self._rest[:PART_BYTES]))
            del self._rest[:PART_BYTES]
            if record:
                self._record(self._upload)

    def _put_part(self, data: bytes) -> None:
        upload = self._begun()
        number = len(upload.etags) + 1
        etag = self._large.put_part(upload.key, upload.multipart_id, number, data)
        self._upload = upload.evolve(
            etags=(*upload.etags, etag), offset=(number - 1) * PART_BYTES + len(data), tail=""
        )

    def _begun(self) -> ResumableUpload:
        upload = self._upload
        if upload.multipart_id:
            return upload
        upload = upload.evolve(multipart_id=self._large.begin(upload.key))
        # At once, lest nobody know of it.
        self._store.commit(upload, self._token)
        return upload

    def _close(self, before: ResumableUpload) -> None:
        offset = len(self._upload.etags) * PART_BYTES + len(self._rest)
        if offset == self._upload.length:
            self._finish()
        elif offset != before.offset:
            self._put_tail(offset)
        if before.tail and before.tail != self._upload.tail:
            self._objects.delete(before.tail)

    def _finish(self) -> None:
        upload = self._upload
        if not upload.multipart_id:
            self._put(upload.key)
        else:
            if self._rest:
                self._put_part(bytes(self._rest))
            self._large.complete(upload.key, upload.multipart_id, self._upload.etags)
        self._record(_completed(self._upload))

    def _put_tail(self, offset: int) -> None:
        tail = self._upload.tail_key(offset) if self._rest else ""
        if tail:
            self._put(tail)
        self._record(self._upload.evolve(offset=offset, tail=tail))

    def _put(self, key: str) -> None:
        self._objects.put(key, io.BytesIO(self._rest), len(self._rest), _MEDIA_TYPE)

    def _record(self, upload: ResumableUpload) -> None:
        self._store.commit(upload, self._token)
        self._upload = upload

    def _completed_before(self, before: ResumableUpload) -> ResumableUpload:
        """The multipart upload is gone: a process died after completing it, before recording it."""
        if self._large.size(before.key) != before.length:
            raise ObjectNotFoundError(f"The upload {before.upload_id} has lost its parts.")
        self._record(_completed(before))
        return self._upload


def _completed(upload: ResumableUpload) -> ResumableUpload:
    return upload.evolve(offset=upload.length, complete=True, multipart_id="", etags=(), tail="")


#: A stored file is read from the bucket by so much at a time.
_BUFFER_BYTES: Final = 4 * 2**20

_CHUNK_BYTES: Final = 2**16


class Body(Protocol):
    """What a client sends, as it comes."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end, or when the client is gone."""


@dataclass(frozen=True, slots=True)
class UploadService:
    """All of them. Every method raises `StoreUnavailableError` or `QueueUnavailableError`.

    Attributes:
        seconds: how long an upload is kept after its beginning.
    """

    store: UploadStore
    objects: ObjectStore
    large: LargeObjectStore
    seconds: float
    clock: Callable[[], float] = time.time

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        client: Redis,
        objects: ObjectStore,
        pool: urllib3.PoolManager | None = None,
    ) -> "UploadService":
        """Connect lazily: nothing is sent before the first call."""
        return cls(
            store=UploadStore(client),
            objects=objects,
            large=LargeObjectStore.from_settings(settings, pool),
            seconds=settings.retention_hours * 3600,
        )

    def create(
        self, owner: str, length: int, *, metadata: str = "", file_name: str = ""
    ) -> ResumableUpload:
        """Begin an upload of so many bytes."""
        now = self.clock()
        upload = ResumableUpload(
            upload_id=redis_keys.new_upload_id(),
            owner=owner,
            length=length,
            created_at=now,
            expires_at=now + self.seconds,
            metadata=metadata,
            file_name=file_name,
        )
        if length == 0:
            upload = upload.evolve(complete=True)
            self.objects.put(upload.key, io.BytesIO(), 0, "application/octet-stream")
        self.store.create(upload)
        return upload

    def stage(self, owner: str, stream: BinaryIO, file_name: str) -> ResumableUpload:
        """Take in a file that comes at once, of unknown length, as an upload that is whole."""
        now = self.clock()
        upload = ResumableUpload(
            upload_id=redis_keys.new_upload_id(),
            owner=owner,
            length=0,
            created_at=now,
            expires_at=now + self.seconds,
            file_name=file_name,
            complete=True,
        )
        # Recorded first, so that whatever becomes of this process it is swept in time.
        self.store.create(upload)
        self.large.put_stream(upload.key, stream)
        return upload.evolve(length=self.large.size(upload.key))

    def look(self, owner: str, upload_id: str) -> ResumableUpload:
        """How an upload stands, once nobody is writing to it.

        Raises:
            UploadNotFoundError, UploadExpiredError, UploadLockedError: it cannot be told.
        """
        self._found(owner, upload_id)
        with UploadLock(self.store, upload_id):
            return self._found(owner, upload_id)

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
        """Add a piece that begins at `offset`; how the upload stands then.

        Args:
            owner: id of whoever asks.
            upload_id: the upload.
            offset: where the piece begins.
            body: the piece.
            announced: its length, if that was said.
            checksum: what it must hash to.

        Raises:
            UploadNotFoundError, UploadExpiredError, UploadLockedError: it cannot be added to.
            OffsetMismatchError, UploadTooLongError: the piece does not fit.
            ChecksumMismatchError: the piece came damaged, and none of it was kept.
        """
        self._found(owner, upload_id)
        with UploadLock(self.store, upload_id) as lock:
            upload = self._found(owner, upload_id)
            if offset != upload.offset:
                raise OffsetMismatchError(
                    f"The upload has {upload.offset} bytes, and the piece begins at {offset}."
                )
            left = upload.length - upload.offset
            if announced is not None and announced > left:
                raise UploadTooLongError(f"The piece has {announced} bytes; {left} are missing.")
            if upload.complete:
                return upload
            writer = UploadWriter(self.store, self.objects, self.large, upload, lock.token)
            return writer.append(_read_chunks(body, left, lock), checksum)

    def end(self, owner: str, upload_id: str) -> None:
        """Drop an upload with its bytes, whole or not.

        Raises:
            UploadNotFoundError, UploadExpiredError, UploadLockedError: there is none to drop.
        """
        self._found(owner, upload_id)
        with UploadLock(self.store, upload_id):
            upload = self._found(owner, upload_id)
            self.store.remove(upload_id)
            self.erase(upload)

    def erase(self, upload: ResumableUpload) -> None:
        """Remove an upload's bytes from the bucket."""
        if upload.multipart_id:
            self.large.abort(upload.key, upload.multipart_id)
        for key in self.objects.list(object_keys.upload_prefix(upload.upload_id)):
            self.objects.delete(key)

    def open(self, owner: str, upload_id: str) -> tuple[BinaryIO, ResumableUpload]:
        """A whole upload as a stream that is read from the bucket as it is needed.

        Raises:
            UploadNotFoundError, UploadExpiredError: it is not there.
            UploadUnfinishedError: some of it is still missing.
        """
        upload = self._found(owner, upload_id)
        if not upload.complete:
            missing = upload.length - upload.offset
            raise UploadUnfinishedError(f"The upload {upload_id} still lacks {missing} bytes.")
        return self.stream(upload), upload

    def stream(self, upload: ResumableUpload) -> BinaryIO:
        """The bytes of a whole upload."""
        file = ObjectStream(self.large, upload.key, upload.length)
        return io.BufferedReader(file, _BUFFER_BYTES)

    def _found(self, owner: str, upload_id: str) -> ResumableUpload:
        upload = self.store.get(upload_id)
        if upload is None or upload.owner != owner:
            raise UploadNotFoundError(f"There is no upload {upload_id}.")
        if upload.expires_at <= self.clock():
            raise UploadExpiredError(f"The upload {upload_id} has expired.")
        return upload


def _read_chunks(body: Body, left: int, lock: UploadLock) -> Iterator[bytes]:
    """The body until its end, its client's, or another request's wish to go on instead."""
    while left > 0 and not lock.wanted:
        lock.reading()
        chunk = body.read(min(_CHUNK_BYTES, left))
        lock.working()
        if not chunk:
            return
        left -= len(chunk)
        yield chunk
