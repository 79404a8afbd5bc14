"""Requests of little input that ask for much work, and what each takes of a process."""

import base64
import http.client
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import urllib3
from PIL import Image
from urllib3.filepost import encode_multipart_formdata

from tests.support.hostile_pictures import (
    box,
    heic_header,
    many_directories,
    many_scans,
    many_strips,
    many_tags,
    tall_png,
)
from tests.support.pictures import picture_file
from tests.support.png_files import png_chunk

MB: Final = 2**20
_REMOVE: Final = "/api/v1/remove-bg"
_JSON: Final = {"Content-Type": "application/json"}
_URLENCODED: Final = {"Content-Type": "application/x-www-form-urlencoded"}
#: The largest head is 64 KiB, the request line and names included.
_HEAD_BYTES: Final = 60_000


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """A request, whose body is made when it is sent."""

    method: str = "POST"
    path: str = _REMOVE
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], bytes] = bytes

    def send(self, port: int, key: str = "") -> tuple[int, bytes]:
        """Send it, and return the status and the answer; 0 if that was cut off."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {**self.headers, **({"X-API-Key": key} if key else {})}
        try:
            connection.request(self.method, self.path, self.body(), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (BrokenPipeError, ConnectionResetError):
            return 0, b""  # it was refused while it was sent
        finally:
            connection.close()


def picture_form(picture: bytes, path: str = _REMOVE) -> HostileRequest:
    """Return the submission of a file."""
    body, kind = encode_multipart_formdata({"image": ("a", picture), "cache": "false"})
    return HostileRequest(path=path, headers={"Content-Type": kind}, body=lambda: body)


def _document(make: Callable[[], object], path: str = _REMOVE) -> HostileRequest:
    return HostileRequest(path=path, headers=_JSON, body=lambda: json.dumps(make()).encode())


def _text(make: Callable[[], bytes], path: str = _REMOVE) -> HostileRequest:
    return HostileRequest(path=path, headers=_JSON, body=make)


def _header(name: str, value: str, method: str = "GET", path: str = "/") -> HostileRequest:
    return HostileRequest(method, path, {name: value[:_HEAD_BYTES]})


def _multipart(parts: Callable[[], Iterable[bytes]], boundary: str = "x") -> HostileRequest:
    def body() -> bytes:
        lines = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts())
        return lines + b"--%b--\r\n" % boundary.encode()

    kind = f"multipart/form-data; boundary={boundary}"
    return HostileRequest(headers={"Content-Type": kind}, body=body)


def _b64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


_FIELD: Final = b'Content-Disposition: form-data; name="a"\r\n\r\nb'

#: Requests that carry much text.
TEXTS: Final[Mapping[str, HostileRequest]] = {
    "base64 without a comma, 40 kB": _document(lambda: {"image_b64": "data:" + 40_000 * "a"}),
    "base64 without a comma, 10 MB": _document(lambda: {"image_b64": "data:" + 10 * MB * "a"}),
    "base64 of quotes and commas": _document(lambda: {"image_b64": "data:" + 20_000 * '",'}),
    "base64 of escapes": _text(lambda: b'{"image_b64":"%b"}' % (10 * MB // 6 * b"\\u002b")),
    "base64 in an urlencoded form": HostileRequest(
        headers=_URLENCODED, body=lambda: b"image_b64=" + 10 * MB // 3 * b"%2B"
    ),
    "base64 of spaces": _document(lambda: {"image_b64": 10 * MB * " "}),
    "1.5 M unknown JSON keys": _text(
        lambda: b"{%b}" % b",".join(b'"a%d":0' % each for each in range(1_500_000))
    ),
    "3,000 unknown JSON keys": _text(
        lambda: b"{%b}" % b",".join(b'"a%d":0' % each for each in range(3_000))
    ),
    "brackets": _text(lambda: 10 * MB * b"["),
    "brackets within 64 kB": _text(lambda: 30_000 * b"[" + 30_000 * b"]"),
    "quotes": _text(lambda: 10 * MB * b'"'),
    "backslashes": _text(lambda: b'{"image_b64":"%b"}' % (10 * MB * b"\\")),
    "quotes behind backslashes": _text(lambda: b'{"image_b64":"%b"}' % (5 * MB * b'\\"')),
    "a number of 60,000 digits": _text(lambda: b'{"image_b64":%b}' % (60_000 * b"1")),
    "3 M urlencoded fields": HostileRequest(headers=_URLENCODED, body=lambda: 3_000_000 * b"a=&"),
    "an urlencoded name without end": HostileRequest(
        headers=_URLENCODED, body=lambda: 5 * MB * b"%41"
    ),
    "300,000 parts": _multipart(lambda: 300_000 * [_FIELD]),
    "parts of a long boundary": _multipart(
        lambda: [_FIELD + 4_000 * (b"\r\n--" + 2_000 * b"a")], 5_000 * "a"
    ),
    "a part of line ends": _multipart(lambda: [_FIELD.replace(b"b", 5 * MB * b"\r\n")]),
    "a part's head without end": _multipart(lambda: [b"X: " + 10 * MB * b"a"]),
    "a part's head of parameters": _multipart(
        lambda: [b"Content-Disposition: form-data" + 1_500 * b";a=b" + b"\r\n\r\nb"]
    ),
    "1,700,000 chunks of a byte": HostileRequest(
        headers={**_JSON, "Transfer-Encoding": "chunked"}, body=lambda: 1_700_000 * b"1\r\na\r\n"
    ),
    "a batch of 1,000 addresses": _document(
        lambda: {"items": 1_000 * [{"image_url": "http://127.0.0.1:9/"}]}, f"{_REMOVE}/batch"
    ),
    "a batch of 100 unknown items": _document(
        lambda: {"items": 100 * [{f"a{each}": 0 for each in range(60)}]}, f"{_REMOVE}/batch"
    ),
    "a batch of 100 tiny pictures": _document(
        lambda: {"items": 100 * [{"image_b64": "data:,/9j/"}]}, f"{_REMOVE}/batch"
    ),
    "remove.bg: base64 without a comma": _document(
        lambda: {"image_file_b64": "data:" + 10 * MB * "a"}, "/v1.0/removebg"
    ),
    "remove.bg: 3,000 values below a long name": _document(
        lambda: {30_000 * "n": {f"{each:x}": 0 for each in range(3_000)}}, "/v1.0/removebg"
    ),
}

#: Requests whose head is long.
HEADS: Final[Mapping[str, HostileRequest]] = {
    "parameters of Content-Type": HostileRequest(
        headers={"Content-Type": "multipart/form-data" + _HEAD_BYTES // 4 * ";a=b"}
    ),
    "quotes in Content-Type": HostileRequest(
        headers={"Content-Type": 'multipart/form-data; boundary="' + _HEAD_BYTES // 2 * '\\"'}
    ),
    "continuations in Content-Type": HostileRequest(
        headers={
            "Content-Type": "multipart/form-data"
            + "".join(f";a*{each}=b" for each in range(_HEAD_BYTES // 10))
        }
    ),
    "Accept": _header("Accept", _HEAD_BYTES // 4 * "a/b,", path="/api/v1/tasks/x/result"),
    "Accept with weights": _header("Accept", _HEAD_BYTES // 10 * "a/b;q=0.1,"),
    "Accept-Language": _header("Accept-Language", _HEAD_BYTES // 2 * "a,"),
    "Cookie": _header("Cookie", _HEAD_BYTES // 4 * "a=b;"),
    "Authorization": _header("Authorization", "Basic " + _HEAD_BYTES * "a", path="/api/v1/tasks"),
    "Digest parameters": _header("Authorization", "Digest " + _HEAD_BYTES // 4 * 'a="",'),
    "Range": _header("Range", "bytes=" + _HEAD_BYTES // 4 * "0-1,", path="/static/page.js"),
    "If-None-Match": _header("If-None-Match", _HEAD_BYTES // 4 * '"a",'),
    "Prefer": _header("Prefer", _HEAD_BYTES // 7 * "wait=1,", "POST", _REMOVE),
    "Cache-Control": _header("Cache-Control", _HEAD_BYTES // 4 * "a=b,"),
    "Forwarded": _header("X-Forwarded-For", _HEAD_BYTES // 2 * "a,"),
    "Upload-Metadata": HostileRequest(
        path="/api/v1/uploads",
        headers={
            "Tus-Resumable": "1.0.0",
            "Upload-Length": "1",
            "Upload-Metadata": _HEAD_BYTES // 5 * "a YQ,",
        },
    ),
    "Idempotency-Key": HostileRequest(
        headers={"Idempotency-Key": '"' + _HEAD_BYTES // 2 * "\\\\", **_JSON}, body=lambda: b"{}"
    ),
    "a query": HostileRequest("GET", "/api/v1/tasks?" + _HEAD_BYTES // 4 * "a=b&"),
    "a query of other names": HostileRequest(
        "GET", "/api/v1/tasks?" + "&".join(f"a{each}" for each in range(8_000))
    ),
    "a path": HostileRequest("GET", "/api/v1/tasks" + _HEAD_BYTES // 2 * "/a"),
    "a path of slashes": HostileRequest("GET", _HEAD_BYTES * "/"),
    "a path of escapes": HostileRequest("GET", "/" + _HEAD_BYTES // 3 * "%2f"),
    "7,000 fields": HostileRequest("GET", "/", {f"X-{each}": "a" for each in range(5_000)}),
}


def _jpeg(between: bytes) -> bytes:
    whole = picture_file(Image.new("RGB", (64, 64), "teal"), "JPEG", progressive=True)
    scan = whole.index(b"\xff\xda")
    return whole[:scan] + between + whole[scan:]


def _parts(photo: str, at: int, part: bytes, count: int) -> bytes:
    whole = picture_file(Image.new("RGB", (64, 64), "teal"), photo)
    return whole[:at] + count * part + whole[at:]


def _wide_png(width: int, height: int, bits: int = 1) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + width * bits // 8) * height), 9)
    chunks = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _text_bomb() -> bytes:
    packed = zlib.compress(bytes(100 * MB), 9)
    return tall_png(
        64, 64, png_chunk(b"zTXt", b"k\0\0" + packed), png_chunk(b"iCCP", b"p\0\0" + packed)
    )


def _noise(size: int) -> bytes:
    return np.random.default_rng(18).bytes(size)


#: Files that ask much work of whoever looks at them.
FILES: Final[Mapping[str, Callable[[], bytes]]] = {
    "a JPEG of 10 MB of fill bytes": lambda: _jpeg(9 * MB * b"\xff"),
    "a JPEG of 10 MB of zeros": lambda: _jpeg(9 * MB * b"\0"),
    "a JPEG of 5 M restart markers": lambda: _jpeg(9 * MB // 2 * b"\xff\xd0"),
    "a JPEG of fill bytes by turns": lambda: _jpeg(3 * MB * b"\xff\xff\0"),
    "a JPEG of 2 M empty segments": lambda: _parts("JPEG", 2, b"\xff\xe1\0\2", 2_000_000),
    "a JPEG of 59,265 scans": lambda: many_scans((64, 64), 59_265),
    "a JPEG of noise": lambda: _jpeg(_noise(9 * MB)),
    "a PNG of 2 x 25,000,000": partial(tall_png, 2, 25_000_000),
    "a PNG of 25,000,000 x 2": partial(tall_png, 25_000_000, 2),
    "a PNG of 700,000 chunks": lambda: _parts("PNG", 33, png_chunk(b"IDAT", b""), 700_000),
    "a PNG of 49 black megapixels": lambda: _wide_png(7_000, 7_000),
    "a PNG of 49 megapixels of 16 bits": lambda: _wide_png(7_000, 7_000, 16),
    "a PNG of 100 MB of text": _text_bomb,
    "a GIF of 10 MB of blocks": lambda: _parts("GIF", 13, b"\x21\xfe\1a\0", 2_000_000),
    "a TIFF of tags at both ends": lambda: many_tags(400, 9, far=9 * MB),
    "a TIFF of tags that claim all": lambda: many_tags(900, 9 * MB),
    "a TIFF of directories that claim all": lambda: many_directories(64, 9 * MB),
    "a TIFF of 1,000,000 strips": lambda: many_strips(1_000_000),
    "a HEIC of 60,000 equal tiles": lambda: heic_header((64, 64), {1: [2] * 60_000}),
    "a HEIC of boxes": lambda: heic_header((9, 9), {}, more=box(b"free") * 1_000_000),
    "an AVIF of tables": lambda: heic_header(
        (9, 9), {}, more=box(b"iref", bytes(4), box(b"dimg", bytes(9 * MB))), brand=b"avif"
    ),
    "a BMP of 2 megapixels": lambda: picture_file(Image.new("RGBA", (1500, 1500)), "BMP"),
    "an SVG of spaces": lambda: b"<?xml" + 10 * MB * b" ",
    "10 MB of noise": lambda: _noise(10 * MB - 4096),
}


def hostile_requests() -> Iterator[tuple[str, HostileRequest]]:
    """Yield all of them by their names."""
    yield from TEXTS.items()
    yield from HEADS.items()
    for name, make in FILES.items():
        yield name, picture_form(make())


def as_upload(picture: bytes, port: int, key: str = "") -> HostileRequest:
    """Send a file as an upload, and return its submission."""
    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": str(len(picture)),
        "Content-Type": "application/offset+octet-stream",
        **({"X-API-Key": key} if key else {}),
    }
    url = f"http://127.0.0.1:{port}/api/v1/uploads"
    begun = urllib3.request("POST", url, headers=headers, body=picture, timeout=120)
    upload_id = begun.headers["Location"].rpartition("/")[2]
    return _document(lambda: {"upload_id": upload_id, "cache": False})


def large_document() -> HostileRequest:
    """Return the submission of a photo of 7 MB as JSON."""
    noise = Image.effect_noise((2_800, 2_800), 80).convert("RGB")
    body = json.dumps({"image_b64": _b64(picture_file(noise, "JPEG", quality=95)), "cache": False})
    return _text(body.encode)


@dataclass(slots=True)
class Cost:
    """What happened to processes while something was done.

    Attributes:
        seconds: of processor time, of all of them.
        memory: the bytes by which the resident memory of one of them was higher at its peak.
    """

    seconds: float = 0.0
    memory: int = 0


@contextmanager
def measured(processes: Iterable[psutil.Process]) -> Iterator[Cost]:
    """Measure what processes take until the block ends; other work of theirs counts too."""
    found = list(processes)
    cost = Cost()
    before = [(_seconds(each), each.memory_info().rss) for each in found]
    for each in found:
        # proc(5): resets the peak of the resident memory.
        Path(f"/proc/{each.pid}/clear_refs").write_text("5")
    yield cost
    cost.seconds = sum(_seconds(each) for each in found) - sum(used for used, _ in before)
    cost.memory = max(_peak(each) - rss for each, (_, rss) in zip(found, before, strict=True))


def most_memory(processes: Iterable[psutil.Process]) -> int:
    """Return the resident memory of the largest of some processes, in bytes."""
    return max(each.memory_info().rss for each in processes)


def _seconds(process: psutil.Process) -> float:
    """Return a process's time, and that of its children which have ended; none of one that has."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


def _peak(process: psutil.Process) -> int:
    with suppress(FileNotFoundError), Path(f"/proc/{process.pid}/status").open() as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return 0
