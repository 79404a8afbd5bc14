"""Starts programs to be measured, and reads what each of their processes uses.

Processor time is read, not estimated: it hardly depends on what else the machine does. What a
process used that came and ended between two readings is not seen. Linux only.
"""

import json
import os
import platform
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import urllib3

from deploy.local import service as local_service
from deploy.local.ports import LOOPBACK
from deploy.local.service import StartError
from deploy.local.up import RUN_FILE

_START_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.1
_LOG_CHARACTERS: Final = 2000
#: Beyond the PNG of 12 megapixels, which has 21 MB with a camera's grain.
_MAX_IMAGE_MB: Final = 32
#: What a command line says of its process; the first that matches counts.
_NAMES: Final = (
    (r"gunicorn: master", "API, master"),
    (r"gunicorn", "API"),
    (r"celeryd: io@", "I/O worker"),
    (r"celeryd: \S+MainProcess", "worker, parent"),
    (r"celeryd: \S+PoolWorker", "worker, child"),
    (r"inference\.decoding_process", "worker, decoding process"),
    (r"billiard\.\w+_tracker", "worker, parent"),
    (r"celery_flower", "Flower"),
    (r"valkey-server|redis-server", "Redis"),
    (r"/weed ", "object store"),
    (r"rmbg up", "rmbg up"),
)


def machine() -> str:
    """Name the machine, since a figure without one means nothing."""
    cores = local_service.core_count()
    return f"{_processor()}, {cores} cores, {platform.system()}, Python {platform.python_version()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes had used at one moment, by their names."""

    #: Milliseconds of processor time since each process began.
    milliseconds: Mapping[str, float]
    #: Resident bytes; pages that processes share count for each.
    resident: Mapping[str, int]

    def since(self, before: Self) -> dict[str, float]:
        """Return the milliseconds that each name has used since an earlier reading."""
        return {
            name: ms - before.milliseconds.get(name, 0) for name, ms in self.milliseconds.items()
        }


def read_usage(pid: int, *, alone: bool = False) -> Usage:
    """Read what a process, and unless `alone` all below it have used; those of a name are added."""
    milliseconds, resident = dict[str, float](), Counter[str]()
    page = os.sysconf("SC_PAGE_SIZE")
    for each in [pid] if alone else _tree(pid):
        with suppress(OSError):  # it has just ended
            folder = Path(f"/proc/{each}")
            command = folder.joinpath("cmdline").read_text("utf-8", "replace").replace("\0", " ")
            pages = int(folder.joinpath("statm").read_text("ascii").split()[1])
            spent = time.clock_gettime(_processor_clock(each)) * 1000
            name = _name(command)
            milliseconds[name] = milliseconds.get(name, 0.0) + spent
            resident[name] += pages * page
    return Usage(milliseconds, dict(resident))


def _processor_clock(pid: int) -> int:
    """Return the clock of a process's processor time, as clock_getcpuclockid(3) does."""
    return (~pid << 3) | 2


def _name(command: str) -> str:
    known = (name for pattern, name in _NAMES if re.search(pattern, command))
    return next(known, Path(command.split(" ", 1)[0]).name)


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                # The name in parentheses may hold spaces and parentheses of its own.
                parent = entry.joinpath("stat").read_text("utf-8", "replace").rpartition(")")[2]
                below.setdefault(int(parent.split()[1]), []).append(int(entry.name))
    found, at = [pid], 0
    while at < len(found):
        found += below.get(found[at], [])
        at += 1
    return found


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs, and answers at an address."""

    url: str
    pid: int

    def usage(self) -> Usage:
        """Read what it and all below it have used."""
        return read_usage(self.pid)


@contextmanager
def running_stack(
    folder: Path,
    options: Sequence[str] = (),
    *,
    env: Mapping[str, str] = MappingProxyType({}),
    seconds: float = _START_SECONDS,
) -> Iterator[Program]:
    """Run `rmbg up` with these options on free ports and an empty data folder.

    Args:
        folder: for its data and its output.
        options: of `rmbg up`.
        env: variables beside those of this process.
        seconds: how long it may take to become ready.

    Raises:
        StartError: it did not become ready; with the end of its output.
    """
    data = folder / "data"
    given = {"RMBG_MAX_IMAGE_MB": str(_MAX_IMAGE_MB), **env}
    variables = [f"{name}={value}" for name, value in given.items()]
    command = ["env", *variables, local_service.script("rmbg"), "up"]
    ports = ["--port", "0", "--flower-port", "0"]
    facts = data / RUN_FILE
    whole = [*command, *ports, "--data", str(data), *options]
    with _started("rmbg up", whole, folder / "up.log", facts.exists, seconds) as pid:
        yield Program(json.loads(facts.read_text("utf-8"))["api_url"], pid)


@contextmanager
def running_rembg(program: Path, models: Path, folder: Path, port: int) -> Iterator[Program]:
    """Run `rembg s`, the HTTP server of the rembg library, with models from a folder.

    Raises:
        StartError: it did not become ready; with the end of its output.
    """
    url = f"http://{LOOPBACK}:{port}"
    server = [str(program), "s", "--no-ui", "-h", LOOPBACK, "-p", str(port)]
    log = folder / "rembg.log"
    command = ["env", f"U2NET_HOME={models}", *server]
    with _started("rembg s", command, log, lambda: _answers(url)) as pid:
        yield Program(url, pid)


def _answers(url: str) -> bool:
    try:
        urllib3.request("GET", f"{url}/api", retries=False, timeout=1.0)
    except urllib3.exceptions.HTTPError:
        return False
    return True


@contextmanager
def _started(
    name: str,
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    seconds: float = _START_SECONDS,
) -> Iterator[int]:
    """Start a program, wait until it is ready, and end it after the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + seconds
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text("utf-8", "replace")[-_LOG_CHARACTERS:]
                raise StartError(f"{name} did not start:\n{said}")
            time.sleep(_POLL_SECONDS)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
