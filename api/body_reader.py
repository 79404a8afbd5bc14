"""Request bodies on the event loop: read within deadlines and a caller's share of the disk."""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, BinaryIO, Final

from tasks.capacity import FREE_BYTES

#: A body that arrives slower than this, after a time of grace, is cut off; so is a silent one.
MIN_BYTES_PER_SECOND: Final = 8 * 2**10
GRACE_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 20.0
#: A refused body is read on for this long, and up to this size, so that the client, which may read
#: the answer only after it has sent all, gets to read it.
_DRAIN_SECONDS: Final = 30.0
_DRAIN_BYTES: Final = 64 * 2**20
#: Bytes of a body after which the reader asks again whether there is room for it.
_ASK_BYTES: Final = 2**20

#: Returns the next message of a request, as ASGI defines it.
Receive = Callable[[], Any]


class End(Enum):
    """How the reading of a body ended."""

    #: As many bytes as were wanted have come, and more may follow.
    MORE = auto()
    COMPLETE = auto()
    DISCONNECTED = auto()
    TOO_SLOW = auto()
    TOO_LARGE = auto()
    #: The caller's share of the disk is used up.
    NO_ROOM = auto()


#: The types of the errors with which a body is answered that ended otherwise than complete.
REFUSALS: Final = {
    End.MORE: "payload_too_large",
    End.TOO_LARGE: "payload_too_large",
    End.TOO_SLOW: "request_too_slow",
    End.NO_ROOM: "store_full",
}


@dataclass(slots=True)
class BodyReader:
    """Reads a request's body within its deadlines.

    Attributes:
        receive: returns the request's next message.
        limit: bytes of the largest body.
        length: bytes that have come.
        has_room: returns whether the caller's share of the disk has room for a body of a length,
            in bytes.
    """

    receive: Receive
    limit: int
    length: int = 0
    has_room: Callable[[int], bool] = lambda _: True
    _asked_at: int = 0
    _rest: bytes = b""
    _last: bool = False
    _began: float = field(default_factory=time.monotonic)

    async def read_into(self, file: BinaryIO, most: int) -> End:
        """Read up to `most` bytes into a file; `MORE` if the body may go on after that."""
        while True:
            piece, self._rest = self._rest[:most], self._rest[most:]
            file.write(piece)
            most -= len(piece)
            if self._last and not self._rest:
                return End.COMPLETE
            if not most:
                return End.MORE
            if end := await self._next():
                return end

    @property
    def taken(self) -> int:
        """The number of bytes that were written to files."""
        return self.length - len(self._rest)

    async def drain(self) -> bool:
        """Read on and drop what comes, for a while; return whether that was all."""
        self.limit, self.has_room = self.length + _DRAIN_BYTES, lambda _: True
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._last:
                    self._rest = b""
                    if await self._next():
                        return False
        except TimeoutError:
            return False
        return True

    async def _next(self) -> End | None:
        now = time.monotonic()
        slowest = self._began + GRACE_SECONDS + self.length / MIN_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(min(SILENCE_SECONDS, slowest - now)):
                message = await self.receive()
        except TimeoutError:
            return End.TOO_SLOW
        if message["type"] == "http.disconnect":
            return End.DISCONNECTED
        self._rest, self._last = message.get("body", b""), not message.get("more_body", False)
        self.length += len(self._rest)
        if self.length > self.limit:
            return End.TOO_LARGE
        if self.length - self._asked_at < _ASK_BYTES:
            return None
        self._asked_at = self.length
        return None if self.has_room(self.length) else End.NO_ROOM


class BodyShares:
    """The bytes of the bodies that are in temporary files, by caller.

    A caller has no more of the disk than it leaves free, above a low-water mark: one gets half, a
    second one half of the rest, so that bodies that are sent at once leave room to others.

    Args:
        usage: measures the disk: its bytes in all, used and free.
    """

    def __init__(self, usage: Callable[[str], tuple[int, int, int]] = shutil.disk_usage) -> None:
        self._usage = usage
        self._held: Counter[str] = Counter()

    @contextmanager
    def share(self, caller: str) -> Iterator[Callable[[int], bool]]:
        """Yield a function that returns whether the caller's share has room for a body.

        It takes the bytes of that body that have come so far, and counts them.
        """
        counted = 0

        def has_room(length: int) -> bool:
            nonlocal counted
            self._held[caller] += length - counted
            counted = length
            total, _, free = self._usage(tempfile.gettempdir())
            return self._held[caller] <= free - min(FREE_BYTES, total // 8)

        try:
            yield has_room
        finally:
            self._held[caller] -= counted
            if not self._held[caller]:
                del self._held[caller]
