import io
import zipfile
from datetime import UTC, datetime

from api.archive import stream_zip


def test_an_archive_is_sent_as_it_is_written() -> None:
    asked = []

    def pieces(letter: bytes) -> "list[bytes]":
        asked.append(letter)
        return [letter * 1000, letter * 500]

    now = datetime(2026, 11, 22, 10, 30, 2, tzinfo=UTC)
    stream = stream_zip((f"{x}.png", now, iter(pieces(x.encode()))) for x in "abc")
    first = next(stream)
    assert asked == [b"a"]
    with zipfile.ZipFile(io.BytesIO(first + b"".join(stream))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.png", "b.png", "c.png"]
        assert archive.read("b.png") == b"b" * 1500
        assert archive.getinfo("b.png").date_time == (2026, 11, 22, 10, 30, 2)
