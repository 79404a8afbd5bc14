"""Adds a piece to an upload: whole parts go into the multipart upload, the rest waits as a tail.

Bytes are written first and recorded second; whatever process dies in between, the record names only
what lies in the bucket. A part always holds the same range of the file, so writing it once more
changes nothing.
"""

import hmac
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tasks.errors import ObjectNotFoundError
from tasks.large_objects import LargeObjects
from tasks.storage import ObjectStore
from tasks.uploads.errors import ChecksumMismatchError
from tasks.uploads.record import PART_BYTES, PieceUpload
from tasks.uploads.store import UploadStore

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


class Writer:
    """Writes one piece; made for it, by the holder of the upload's lock."""

    def __init__(
        self,
        store: UploadStore,
        objects: ObjectStore,
        large: LargeObjects,
        upload: PieceUpload,
        token: str,
    ) -> None:
        self._store = store
        self._objects = objects
        self._large = large
        self._token = token
        self._upload = upload
        self._rest = bytearray()

    def append(self, chunks: Iterable[bytes], checksum: Checksum | None = None) -> PieceUpload:
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

    def _begun(self) -> PieceUpload:
        upload = self._upload
        if upload.multipart_id:
            return upload
        upload = upload.evolve(multipart_id=self._large.begin(upload.key))
        # At once, lest nobody know of it.
        self._store.commit(upload, self._token)
        return upload

    def _close(self, before: PieceUpload) -> None:
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
        self._record(_whole(self._upload))

    def _put_tail(self, offset: int) -> None:
        tail = self._upload.tail_key(offset) if self._rest else ""
        if tail:
            self._put(tail)
        self._record(self._upload.evolve(offset=offset, tail=tail))

    def _put(self, key: str) -> None:
        self._objects.put(key, io.BytesIO(self._rest), len(self._rest), _MEDIA_TYPE)

    def _record(self, upload: PieceUpload) -> None:
        self._store.commit(upload, self._token)
        self._upload = upload

    def _completed_before(self, before: PieceUpload) -> PieceUpload:
        """The multipart upload is gone: a process died after completing it, before recording it."""
        if self._large.size(before.key) != before.length:
            raise ObjectNotFoundError(f"The upload {before.upload_id} has lost its parts.")
        self._record(_whole(before))
        return self._upload


def _whole(upload: PieceUpload) -> PieceUpload:
    return upload.evolve(offset=upload.length, complete=True, multipart_id="", etags=(), tail="")
