"""What is known of an upload in pieces."""

import json
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from tasks import keys

#: Every part of an S3 multipart upload but the last one must have at least so many bytes.
PART_BYTES: Final = 5 * 2**20
#: An expired upload's record outlives its bytes by this, so that 410 can be told from 404.
GRACE_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class PieceUpload:
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
        return f"{keys.upload_prefix(self.upload_id)}whole"

    def tail_key(self, offset: int) -> str:
        """Where the tail lies while the upload has so many bytes."""
        return f"{keys.upload_prefix(self.upload_id)}tail-{offset}"

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
