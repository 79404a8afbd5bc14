"""Bodies that are read as they come, and never by Flask's form parser."""

import sys
from typing import Final

from flask import Request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

#: Blueprints whose handlers read their bodies themselves, and bound them too.
STREAMED: Final = frozenset({"uploads", "batches"})
#: A client that sends nothing for so long has gone.
_SILENCE_SECONDS: Final = 60
#: A client that is still sending sees our answer only if we read what it sends; up to here.
_DRAIN_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 2**16


class StreamedBody:
    """A request's body; it ends where its client goes away, and `cut_off` says so."""

    def __init__(self, request: Request) -> None:
        # None would stand for the application's own limit.
        request.max_content_length = sys.maxsize
        socket = request.environ.get("gunicorn.socket")
        if socket is not None:
            socket.settimeout(_SILENCE_SECONDS)
        self._stream = request.stream
        self.cut_off = False

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        if self.cut_off:
            return b""
        try:
            return self._stream.read(size)
        except (ClientDisconnected, RequestEntityTooLarge, OSError):
            self.cut_off = True
            return b""

    def drain(self) -> None:
        """Read what is still being sent, so that the client comes to read the answer."""
        left = _DRAIN_BYTES
        while left > 0:
            piece = self.read(_CHUNK_BYTES)
            if not piece:
                return
            left -= len(piece)
