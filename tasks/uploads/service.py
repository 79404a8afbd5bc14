"""Uploads in pieces: begin, look, add, end, and open once they are whole."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

import urllib3
from redis import Redis

from tasks import keys
from tasks.large_objects import LargeObjects, StoredFile
from tasks.settings import Settings
from tasks.storage import ObjectStore
from tasks.uploads.errors import (
    OffsetMismatchError,
    UploadExpiredError,
    UploadNotFoundError,
    UploadTooLongError,
    UploadUnfinishedError,
)
from tasks.uploads.lock import UploadLock
from tasks.uploads.record import PieceUpload
from tasks.uploads.store import UploadStore
from tasks.uploads.writer import Checksum, Writer

#: A stored file is read from the bucket by so much at a time.
_BUFFER_BYTES: Final = 4 * 2**20
_CHUNK_BYTES: Final = 2**16


class Body(Protocol):
    """What a client sends, as it comes."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end, or when the client is gone."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """All of them. Every method raises `StoreUnavailableError` or `QueueUnavailableError`.

    Attributes:
        seconds: how long an upload is kept after its beginning.
    """

    store: UploadStore
    objects: ObjectStore
    large: LargeObjects
    seconds: float
    clock: Callable[[], float] = time.time

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        client: Redis,
        objects: ObjectStore,
        pool: urllib3.PoolManager | None = None,
    ) -> "Uploads":
        """Connect lazily: nothing is sent before the first call."""
        return cls(
            store=UploadStore(client),
            objects=objects,
            large=LargeObjects.from_settings(settings, pool),
            seconds=settings.retention_hours * 3600,
        )

    def create(
        self, owner: str, length: int, *, metadata: str = "", file_name: str = ""
    ) -> PieceUpload:
        """Begin an upload of so many bytes."""
        now = self.clock()
        upload = PieceUpload(
            upload_id=keys.new_upload_id(),
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

    def stage(self, owner: str, stream: BinaryIO, file_name: str) -> PieceUpload:
        """Take in a file that comes at once, of unknown length, as an upload that is whole."""
        now = self.clock()
        upload = PieceUpload(
            upload_id=keys.new_upload_id(),
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

    def look(self, owner: str, upload_id: str) -> PieceUpload:
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
    ) -> PieceUpload:
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
            writer = Writer(self.store, self.objects, self.large, upload, lock.token)
            return writer.append(_chunks(body, left, lock), checksum)

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

    def erase(self, upload: PieceUpload) -> None:
        """Remove an upload's bytes from the bucket."""
        if upload.multipart_id:
            self.large.abort(upload.key, upload.multipart_id)
        for key in self.objects.list(keys.upload_prefix(upload.upload_id)):
            self.objects.delete(key)

    def open(self, owner: str, upload_id: str) -> tuple[BinaryIO, PieceUpload]:
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

    def stream(self, upload: PieceUpload) -> BinaryIO:
        """The bytes of a whole upload."""
        file = StoredFile(self.large, upload.key, upload.length)
        return io.BufferedReader(file, _BUFFER_BYTES)

    def _found(self, owner: str, upload_id: str) -> PieceUpload:
        upload = self.store.get(upload_id)
        if upload is None or upload.owner != owner:
            raise UploadNotFoundError(f"There is no upload {upload_id}.")
        if upload.expires_at <= self.clock():
            raise UploadExpiredError(f"The upload {upload_id} has expired.")
        return upload


def _chunks(body: Body, left: int, lock: UploadLock) -> Iterator[bytes]:
    """The body until its end, its client's, or another request's wish to go on instead."""
    while left > 0 and not lock.wanted:
        lock.reading()
        chunk = body.read(min(_CHUNK_BYTES, left))
        lock.working()
        if not chunk:
            return
        left -= len(chunk)
        yield chunk
