"""A supervised process: its command, its readiness probe, how it is stopped, how it can fail."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


class StackError(Exception):
    """Root of everything that `deploy.local` raises on purpose."""

    code: ClassVar[str] = "stack_failed"
    #: What `rmbg up` ends with.
    exit_code: ClassVar[int] = 1


class SetupError(StackError):
    """Something here has to be put right first: a folder, a port, a missing file."""

    code = "setup_wrong"
    exit_code = 2


class NotReadyError(StackError):
    """A process does not answer yet, or not as it should."""

    code = "not_ready"


class StartError(StackError):
    """A process did not become ready in time."""

    code = "start_failed"


class SelfCheckError(StackError):
    """Everything runs, but the sample photo did not come back as a cutout."""

    code = "self_check_failed"


#: Returns when the service is ready, else raises `NotReadyError`. Its argument is the unix time at
#: which the process was started: what was announced before that is not its own.
Probe = Callable[[float], None]


def always_ready(since: float) -> None:
    """The probe of a process that is ready as soon as it runs."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process, as it is to be started each time."""

    name: str
    command: tuple[str, ...]
    #: Added to the environment of whoever starts it.
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    #: Where it listens, for people.
    address: str = ""
    #: `host:port` whose `/metrics` Prometheus may scrape; empty if there is none.
    metrics: str = ""
    probe: Probe = always_ready
    #: Seconds between two questions of the probe.
    probe_interval: float = 0.1
    stop_signal: signal.Signals = signal.SIGTERM
    #: Seconds from the stop signal to SIGKILL.
    grace: float = 5.0
    #: Whether having to kill it deserves a line.
    reports_kill: bool = True
    #: Services of a lower stage are ended first.
    stop_stage: int = 0
    #: Files that it leaves behind when it is killed.
    leftovers: tuple[Path, ...] = ()

    def remove_leftovers(self) -> None:
        """Delete what a killed process could not delete itself."""
        for path in self.leftovers:
            path.unlink(missing_ok=True)
