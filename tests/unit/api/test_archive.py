import io
import zipfile
from datetime import UTC, datetime

import pytest

from api.archive import archive_names, stream_zip


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["cup.jpg", "cat.png"], ["cup.png", "cat.png"]),
        (["a.jpg", "a.png", "A.webp"], ["a.png", "a-2.png", "A-3.png"]),
        (["a-2.jpg", "a.jpg", "a.png"], ["a-2.png", "a.png", "a-3.png"]),
        (["../../etc/passwd", "C:\\photos\\x.jpg", "/"], ["passwd.png", "x.png", "image.png"]),
        (["", "..", ".jpg", "a\x00b?.jpg"], ["image.png", "image-2.png", "jpg.png", "a-b.png"]),
        (["кот №1.jpg", "猫.jpg"], ["кот №1.png", "猫.png"]),
        (["two.dots.jpg"], ["two.dots.png"]),
    ],
)
def test_names_are_those_of_the_inputs_made_safe(inputs: list[str], names: list[str]) -> None:
    assert list(archive_names((name, "png") for name in inputs)) == names


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
