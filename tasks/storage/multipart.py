"""Multipart uploads, streaming reads and listings of large S3 objects."""
# ruff: noqa: SLF001 - the reason is above

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final

import urllib3
from minio import Minio
from minio.datatypes import Part

from tasks.errors import ObjectNotFoundError
from tasks.settings import Settings
from tasks.storage.object_store import object_store_errors, s3_client

_MIN_PART_BYTES: Final = 5 * 2**20
_STREAM_BYTES: Final = 2**18
_READ_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object, or an unfinished multipart upload (which has an id), as the store lists it."""

    key: str
    modified: datetime
    multipart_id: str = ""


class LargeObjectStore:
    """Every method raises `StoreUnavailableError` when the store does not answer."""

    def __init__(self, client: Minio, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    @classmethod
    def from_settings(
        cls, settings: Settings, pool: urllib3.PoolManager | None = None
    ) -> "LargeObjectStore":
        """Connect lazily, over a pool or one of its own: nothing is sent before the first call."""
        return cls(s3_client(settings, str(settings.s3_endpoint), pool), settings.s3_bucket)

    def begin(self, key: str) -> str:
        """Begin a multipart upload; its id."""
        with object_store_errors(key):
            return self._client._create_multipart_upload(self._bucket, key, {})

    def put_part(self, key: str, multipart_id: str, number: int, data: bytes) -> str:
        """Store a part, numbered from 1, in place of what had its number before; its ETag.

        Raises:
            ObjectNotFoundError: there is no such multipart upload any more.
        """
        with object_store_errors(key):
            return self._client._upload_part(self._bucket, key, data, None, multipart_id, number)

    def complete(self, key: str, multipart_id: str, etags: Sequence[str]) -> None:
        """Make one object of the parts, in this order.

        Raises:
            ObjectNotFoundError: there is no such multipart upload any more.
        """
        parts = [Part(number, etag) for number, etag in enumerate(etags, 1)]
        with object_store_errors(key):
            self._client._complete_multipart_upload(self._bucket, key, multipart_id, parts)

    def abort(self, key: str, multipart_id: str) -> None:
        """Drop a multipart upload with its parts; one that is not there is no error."""
        try:
            with object_store_errors(key):
                self._client._abort_multipart_upload(self._bucket, key, multipart_id)
        except ObjectNotFoundError:
            return

    def unfinished(self, prefix: str) -> list[ListedObject]:
        """The multipart uploads that are neither complete nor aborted (1000 at most)."""
        with object_store_errors(prefix):
            found = self._client._list_multipart_uploads(self._bucket, prefix=prefix).uploads
        return [
            ListedObject(each.object_name, each.initiated_time, each.upload_id or "")
            for each in found
            if each.initiated_time is not None
        ]

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """The objects whose keys begin so, fetched as they are asked for."""
        with object_store_errors(prefix):
            for found in self._client.list_objects(self._bucket, prefix, recursive=True):
                if found.last_modified is not None:
                    yield ListedObject(str(found.object_name), found.last_modified)

    def size(self, key: str) -> int:
        """An object's length in bytes; `ObjectNotFoundError` if there is none."""
        with object_store_errors(key):
            return int(self._client.stat_object(self._bucket, key).size or 0)

    def put_stream(self, key: str, stream: BinaryIO) -> None:
        """Store a stream of unknown length, of which one part at a time stands in memory."""
        with object_store_errors(key):
            self._client.put_object(self._bucket, key, stream, length=-1, part_size=_MIN_PART_BYTES)

    def chunks(self, key: str) -> Iterator[bytes]:
        """An object piece by piece; `ObjectNotFoundError` if there is none."""
        with object_store_errors(key):
            answer = self._client.get_object(self._bucket, key)
            try:
                yield from answer.stream(_STREAM_BYTES)
            finally:
                answer.close()
                answer.release_conn()

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Some bytes of an object; `ObjectNotFoundError` if there is none."""
        with object_store_errors(key):
            answer = self._client.get_object(self._bucket, key, offset=offset, length=length)
            try:
                return bytes(answer.read())
            finally:
                answer.close()
                answer.release_conn()


class ObjectStream(io.RawIOBase):
    """An object as a stream that is read by ranges, so that none of it need stand in memory."""

    def __init__(self, objects: LargeObjectStore, key: str, length: int) -> None:
        super().__init__()
        self._objects = objects
        self._key = key
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where it stands."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place; nothing is asked of the store yet."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: "memoryview[int] | bytearray") -> int:  # type: ignore[override] # narrower than the base's
        """Fill a buffer as far as there is something."""
        wanted = min(len(buffer), self._length - self._at)
        if wanted <= 0:
            return 0
        data = self._objects.read(self._key, self._at, wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        """All that is left, asked for in large pieces; the base class asks for 8 kB at a time."""
        pieces = []
        while piece := self.read(_READ_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
