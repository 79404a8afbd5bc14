"""Batches through the service's own API: sent as they are read, followed to their end."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import urllib3

from deploy.client import ClientError, ServiceClient

_CHUNK_BYTES: Final = 2**18
_END: Final = b"\r\n"
#: The answer comes once every picture has been looked at and stored.
_TIMEOUT: Final = urllib3.Timeout(connect=5, read=600)


def submit_batch(
    client: ServiceClient, photos: Sequence[Path], options: Mapping[str, str]
) -> dict[str, Any]:
    """Send pictures as one batch; the batch, its items in the order of the pictures.

    One piece of one picture at a time stands in memory.

    Raises:
        ClientError: a file cannot be read, or the service refused the batch.
    """
    boundary = secrets.token_hex(16)
    heads = [_file_head(boundary, photo.name) for photo in photos]
    start = b"".join(_field(boundary, name, value) for name, value in options.items())
    end = f"--{boundary}--\r\n".encode()
    sizes = sum(
        len(head) + _size(photo) + len(_END) for head, photo in zip(heads, photos, strict=True)
    )
    return client.request(
        "POST",
        "/api/v1/remove-bg/batch",
        body=_body(start, list(zip(heads, photos, strict=True)), end),
        headers={
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(start) + sizes + len(end)),
        },
        timeout=_TIMEOUT,
    )


def _field(boundary: str, name: str, value: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return f"{head}{value}\r\n".encode()


def _file_head(boundary: str, name: str) -> bytes:
    safe = name.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
    return (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="images"; filename="{safe}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _size(photo: Path) -> int:
    try:
        return photo.stat().st_size
    except OSError as error:
        raise ClientError(f"{photo} cannot be read: {error.strerror}") from error


def _body(start: bytes, files: Sequence[tuple[bytes, Path]], end: bytes) -> Iterator[bytes]:
    yield start
    for head, photo in files:
        yield head
        try:
            with photo.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise ClientError(f"{photo} cannot be read: {error.strerror}") from error
        yield _END
    yield end
