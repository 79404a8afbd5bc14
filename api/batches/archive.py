"""A ZIP that is written as it is sent."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime


class _Sink(io.RawIOBase):
    """Takes what zipfile writes until it is sent on."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: "bytes | bytearray | memoryview[int]") -> int:  # type: ignore[override] # narrower than the base's
        """Keep a piece."""
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def stream_zip(files: Iterable[tuple[str, datetime, Iterator[bytes]]]) -> Iterator[bytes]:
    """An archive of these names, times and bytes, written as it is read.

    At most one piece of one file stands in memory.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, when, pieces in files:
            entry = zipfile.ZipInfo(name, when.astimezone(UTC).timetuple()[:6])
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w") as target:
                for piece in pieces:
                    target.write(piece)
                    yield sink.take()
    yield sink.take()
