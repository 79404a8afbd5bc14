"""A picture that breaks the bounds of decoding costs a process, and the next one succeeds."""

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import psutil
import pytest
from PIL import Image

from inference import decoding_process
from inference.decode import decode
from inference.decoding_process import DecodingBounds, DecodingProcess
from inference.errors import ImageTooComplexError, InvalidImageError
from inference.probe import DEFAULT_LIMITS, accepted_formats
from tests.support.hostile_pictures import tall_png
from tests.support.pictures import exif_orientation, picture_file

_LARGE = tall_png(4000, 4000)


def _works(process: DecodingProcess) -> bool:
    return process.decode(tall_png(8, 8), DEFAULT_LIMITS).rgb.shape == (8, 8, 3)


@pytest.fixture(scope="module")
def process() -> Iterator[DecodingProcess]:
    process = DecodingProcess()
    yield process
    process.close()


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_pixels_are_those_of_decoding_here(
    mode: str, orientation: int, photo: Image.Image, process: DecodingProcess
) -> None:
    image = photo.convert(mode).resize((700, 500))  # more than one strip
    data = picture_file(image, "PNG", exif=exif_orientation(orientation))
    here, there = decode(data), process.decode(data, DEFAULT_LIMITS)
    assert np.array_equal(here.rgb, there.rgb)
    assert (here.alpha is None) is (there.alpha is None)
    assert here.alpha is None or np.array_equal(here.alpha, there.alpha)
    there.rgb[0] = 0  # as writable as an array of one's own


def test_a_damaged_picture_leaves_the_process_running(
    photo: Image.Image, process: DecodingProcess
) -> None:
    data = picture_file(photo, "PNG")
    assert _works(process)
    pid = process.pid
    start = data.index(b"IDAT") + 8
    with pytest.raises(InvalidImageError, match="PNG data cannot be decoded"):
        process.decode(data[:start] + bytes(20) + data[start + 20 :], DEFAULT_LIMITS)
    assert process.pid == pid
    assert _works(process)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (DecodingBounds(mebibytes=1, mebibytes_per_megapixel=0), "1 MiB of memory"),
        (DecodingBounds(elapsed_factor=0.001), "6 s of processor time"),
    ],
)
def test_a_bound_that_is_broken_is_named_and_another_process_has_been_started(
    bounds: DecodingBounds, words: str
) -> None:
    process = DecodingProcess(bounds)
    process.start()
    before = process.pid
    with pytest.raises(ImageTooComplexError, match=f"more than {words}, the limit for its size"):
        process.decode(_LARGE, DEFAULT_LIMITS)
    assert process.pid not in {None, before}
    process.close()


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (signal.SIGSEGV, pytest.raises(InvalidImageError, match="PNG decoder crashed")),
        (signal.SIGXCPU, pytest.raises(ImageTooComplexError, match="processor time")),
        (signal.SIGKILL, nullcontext()),  # by an operator, or for lack of memory: tried again
    ],
)
def test_what_ends_the_process_says_whose_fault_it_is_and_leaves_no_file_open(
    number: int, outcome: AbstractContextManager[object], process: DecodingProcess
) -> None:
    assert _works(process)
    before, files = process.pid, os.listdir("/proc/self/fd")  # noqa: PTH208 - counted only
    os.kill(before or 0, number)
    with outcome:
        process.decode(_LARGE, DEFAULT_LIMITS)
    assert _works(process)
    assert process.pid not in {None, before}
    # What tests before this one have left is closed when it is collected.
    assert len(os.listdir("/proc/self/fd")) <= len(files)  # noqa: PTH208


def test_the_time_limit_of_a_job_ends_the_process_whose_picture_nobody_waits_for(
    process: DecodingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    assert _works(process)
    before = process.pid
    with monkeypatch.context() as patch:
        patch.setattr(decoding_process, "_read_picture", strike)
        with pytest.raises(KeyboardInterrupt):
            process.decode(_LARGE, DEFAULT_LIMITS)
    assert process.pid != before
    assert _works(process)


def test_no_reader_is_loaded_but_those_of_the_accepted_formats(photo: Image.Image) -> None:
    files = [picture_file(photo, name) for name in accepted_formats()]
    program = (
        "import sys; from inference.decode import decode\n"
        "while size := int(sys.stdin.buffer.readline()): decode(sys.stdin.buffer.read(size))\n"
        "print(*[name for name in sys.modules if name.endswith('ImagePlugin')])"
    )
    sent = b"".join(b"%d\n%b" % (len(data), data) for data in files) + b"0\n"
    loaded = subprocess.check_output([sys.executable, "-c", program], input=sent).decode().split()
    formats = ("Png", "WebP", "Avif", "Tiff", "Bmp", "Gif")
    assert sorted(loaded) == sorted(f"PIL.{name}ImagePlugin" for name in formats)


def test_the_memory_of_large_pictures_is_given_back(process: DecodingProcess) -> None:
    def memory_at_rest(most: float) -> int:
        least = psutil.Process(process.pid).memory_info().rss
        for _ in range(600):
            if least <= most:
                break
            time.sleep(0.05)  # memory's return is announced by no event
            least = min(least, psutil.Process(process.pid).memory_info().rss)
        return least

    assert _works(process)
    before = psutil.Process(process.pid).memory_info().rss
    for name in ("GIF", "TIFF", "WEBP"):
        large = picture_file(Image.new("RGB", (4000, 4000)), name, compression="tiff_lzw")
        assert process.decode(large, DEFAULT_LIMITS)
    assert memory_at_rest(before * 1.2) <= before * 1.2 + (1 << 25)


def test_what_readers_say_about_a_file_reaches_no_log(
    photo: Image.Image, capfd: pytest.CaptureFixture[str]
) -> None:
    tags = b"".join(struct.pack("<HHII", 1000 + each, 1, 60_000, 8) for each in range(500))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 500) + tags + bytes(4)
    process = DecodingProcess()
    assert process.decode(picture_file(photo, "JPEG", exif=exif), DEFAULT_LIMITS)
    process.close()
    assert capfd.readouterr().err == ""


def test_pictures_are_decoded_here_where_the_system_has_no_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding_process.sys, "platform", "darwin")
    process = DecodingProcess()
    assert _works(process)
    assert process.pid is None
