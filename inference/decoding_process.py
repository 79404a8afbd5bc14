"""Decode pictures in a process of its own, with bounds of time and memory by each picture's size.

Readers are C libraries that cannot be interrupted, and no check of a header covers all that a file
can make them do. What breaks a bound costs this process, not the worker with its loaded model.

The process is a new Python, not a fork: a process that has loaded a model must not fork. It serves
one picture after another. Linux only, as the bounds are those of Linux; elsewhere pictures are
decoded in the worker itself.

Over the connection go messages, each a line of JSON, and after some of them bytes. The worker sends
the bounds and the file; the process answers with the size, then with each strip's place and pixels,
and with an empty message at the end. A message with an error takes the place of any of these.
"""

import ctypes
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.decode import Picture, Strips, decode, empty_picture, reading
from inference.errors import (
    ImageTooComplexError,
    ImageTooLargeError,
    ImageTooSmallError,
    InferenceError,
    InvalidImageError,
    SideTooLongError,
    UnsupportedFormatError,
)
from inference.probe import ImageHeader, ImageLimits, check_size, load_readers, probe_image

_MEGA: Final = 1_000_000
_ERRORS: Final[Mapping[str, type[InferenceError]]] = MappingProxyType(
    {
        each.code: each
        for each in (
            ImageTooComplexError,
            ImageTooLargeError,
            ImageTooSmallError,
            InvalidImageError,
            SideTooLongError,
            UnsupportedFormatError,
        )
    }
)
#: What ends a process whose code goes wrong. SIGKILL is not among them: it comes from outside.
_CRASHES: Final = frozenset(
    -each for each in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
)


#: Memory that the process keeps between pictures, what one of 4 megapixels takes: where page faults
#: are slow, as in virtual machines, getting it anew costs more than decoding a JPEG.
_KEPT_BYTES: Final = 1 << 25


@dataclass(frozen=True, slots=True)
class DecodingBounds:
    """What decoding a picture may take, by its size."""

    #: Processor time: about ten times what a slow format takes.
    seconds: float = 4
    seconds_per_megapixel: float = 0.1
    #: Memory: stacks of a reader's threads, and a few copies of the picture.
    mebibytes: int = 1024
    mebibytes_per_megapixel: int = 24
    #: Silence in relation to processor time: a machine may be busy. A picture of 50 megapixels must
    #: fail before the soft time limit of the fastest model, 20 s, which counts as a crash.
    elapsed_factor: float = 2

    def of(self, header: ImageHeader) -> tuple[int, int]:
        """Return the whole seconds and the bytes for a picture."""
        megapixels = header.width * header.height / _MEGA
        seconds = math.ceil(self.seconds + self.seconds_per_megapixel * megapixels)
        return seconds, int((self.mebibytes + self.mebibytes_per_megapixel * megapixels) * 2**20)


class _ProcessDiedError(Exception):
    """The process is gone, and not because of the picture."""


class _MemoryUsedUpError(Exception):
    """The process may have no more memory."""


class DecodingProcess:
    """Decodes one picture at a time in a process, which is replaced when it has died.

    It ends with the process that started it, however that ends. Not for several threads. Where the
    system has no bounds of memory, no process is started, and `decode` decodes here.
    """

    def __init__(self, bounds: DecodingBounds | None = None) -> None:
        self._bounds = bounds or DecodingBounds()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The running process; None if there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, or replace it, and wait for nothing."""
        self.close()
        if sys.platform != "linux":
            return
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "inference.decoding_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def decode(self, data: bytes, limits: ImageLimits) -> Picture:
        """Decode as `inference.decode.decode` does.

        Raises:
            InferenceError: as `decode` does; `ImageTooComplexError` if a bound was broken.
            RuntimeError: the process died twice for no fault of the picture.
        """
        if self._connection is None:
            self.start()
        if self._connection is None:
            return decode(data, limits)
        header = probe_image(data, limits)
        for _ in range(2):
            try:
                return self._ask(data, header, limits)
            except _ProcessDiedError:
                continue  # perhaps somebody ended it, or memory was short for a moment
        raise RuntimeError("The process that decodes pictures was ended twice, or cannot start.")

    def _ask(self, data: bytes, header: ImageHeader, limits: ImageLimits) -> Picture:
        seconds, memory = self._bounds.of(header)
        request = {"seconds": seconds, "memory": memory, "bytes": len(data)}
        assert self._connection is not None  # noqa: S101 - a process that ends is replaced
        self._connection.settimeout(seconds * self._bounds.elapsed_factor)
        try:
            with self._connection.makefile("rb") as stream:
                self._connection.sendall(_line({**request, "limits": asdict(limits)}))
                self._connection.sendall(data)
                return _read_picture(stream, limits)
        except InferenceError:
            raise
        except _MemoryUsedUpError:
            self._replace()
            raise _too_complex(f"{memory >> 20} MiB of memory") from None
        except TimeoutError:
            self._replace()
            raise _too_complex(f"{seconds} s of processor time") from None
        except (OSError, EOFError):
            status = self._replace()
            if status == -signal.SIGXCPU:
                raise _too_complex(f"{seconds} s of processor time") from None
            raise _crash(header) if status in _CRASHES else _ProcessDiedError from None
        except BaseException:  # the time limit of a job: nobody waits for this picture any more
            self._replace()
            raise

    def _replace(self) -> int:
        """End the process, start another at once, and return what the first one ended with."""
        process = self._process
        self.start()
        return 0 if process is None else process.returncode


def _too_complex(what: str) -> ImageTooComplexError:
    return ImageTooComplexError(
        f"Decoding this image takes more than {what}, the limit for its size. "
        "Save it again in an image editor."
    )


def _crash(header: ImageHeader) -> InvalidImageError:
    return InvalidImageError(
        f"The picture is damaged: the {header.format} decoder crashed on it. "
        "Save it again in an image editor, or send another file."
    )


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(stream: BufferedReader) -> dict[str, Any]:
    """Read a message; raises what it reports."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message: dict[str, Any] = json.loads(line)
    if "error" in message:
        raise _ERRORS[message["error"]](message["message"])
    if "out_of_memory" in message:
        raise _MemoryUsedUpError
    return message


def _read_picture(stream: BufferedReader, limits: ImageLimits) -> Picture:
    size = _read(stream)
    check_size(size["width"], size["height"], limits)
    picture = empty_picture(**size)
    while place := _read(stream).get("place"):
        slices = tuple(slice(*each) for each in place)
        for pixels in (picture.rgb, picture.alpha):
            if pixels is not None:
                _read_pixels(stream, pixels[slices])
    return picture


def _read_pixels(stream: BufferedReader, into: NDArray[np.uint8]) -> None:
    whole = into if into.flags.c_contiguous else np.empty(into.shape, np.uint8)
    if stream.readinto(whole.data.cast("B")) < whole.size:
        raise EOFError
    if whole is not into:
        into[...] = whole


def _serve(connection: socket.socket) -> None:
    """Answer requests until the worker closes the connection or ends."""
    # A signal to the whole process group must not take the decoder from a job that may finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    load_readers()
    # A reader may say thousands of lines about one file. Until here an error shows in the log.
    with Path(os.devnull).open("w", encoding="ascii") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    trim, at_rest = _memory_trimmer(), _memory_bytes("VmRSS")
    with connection.makefile("rb") as stream, suppress(EOFError, ConnectionError):
        while True:
            request = _read(stream)
            data = stream.read(request["bytes"])
            _limit(request["seconds"], request["memory"])
            _answer(connection, data, ImageLimits(**request["limits"]))
            del data
            if _memory_bytes("VmRSS") > at_rest + _KEPT_BYTES:
                trim()


def _memory_trimmer() -> Callable[[], object]:
    """Return what gives free memory back to the system: the C library keeps some of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return (lambda: None) if trim is None else lambda: trim(0)


def _answer(connection: socket.socket, data: bytes, limits: ImageLimits) -> None:
    try:
        with reading(data, limits) as picture:
            _send_picture(connection, picture)
    except MemoryError:
        connection.sendall(_line({"out_of_memory": True}))
    except InferenceError as error:
        connection.sendall(_line({"error": error.code, "message": str(error)}))


def _send_picture(connection: socket.socket, picture: Strips) -> None:
    size = {"width": picture.width, "height": picture.height, "has_alpha": picture.has_alpha}
    connection.sendall(_line(size))
    for strip in picture.strips:
        connection.sendall(_line({"place": [(each.start, each.stop) for each in strip.place]}))
        for pixels in (strip.rgb, strip.alpha):
            if pixels is not None:
                connection.sendall(np.ascontiguousarray(pixels).data.cast("B"))
    connection.sendall(_line({}))


def _limit(seconds: int, memory: int) -> None:
    """Bound the next picture: processor time, and data beyond what is in use."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
    # Not RLIMIT_AS: it counts what threads only reserve, 128 MiB each.
    resource.setrlimit(
        resource.RLIMIT_DATA, (_memory_bytes("VmData") + memory, resource.RLIM_INFINITY)
    )


def _memory_bytes(kind: str) -> int:
    """Return how much memory this process has; proc_pid_status(5) has the kinds."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        line = next(line for line in status if line.startswith(f"{kind}:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
