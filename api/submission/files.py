"""What a file tells of itself: its digest, its safe name, its length."""

import hashlib
import re
from pathlib import PurePath
from typing import BinaryIO, Final

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_CHUNK_BYTES: Final = 2**18


def sha256_of(stream: BinaryIO) -> str:
    """The digest of a whole stream, which is at its start again afterwards."""
    digest = hashlib.sha256()
    stream.seek(0)
    while piece := stream.read(_CHUNK_BYTES):
        digest.update(piece)
    stream.seek(0)
    return digest.hexdigest()


def safe_stem(file_name: str) -> str:
    """A client's file name, reduced to what is safe in a header and on any file system."""
    stem = PurePath(file_name.replace("\\", "/")).stem
    return _UNSAFE.sub("-", stem).strip("-.")[:80] or "image"
