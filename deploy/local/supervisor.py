"""Start services together, restart those that die, and stop all of them in order.

Each service runs in a process group of its own, which Linux kills when the supervisor dies.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Final

from deploy.local.programs import inherited_environment
from deploy.local.service import NotReadyError, Service, StartError

#: Run by a bare Python in the new process before the real program takes its place: asks Linux to
#: kill it when the parent dies, even by kill -9. (`preexec_fn` would do the same, but may
#: deadlock in a parent that has threads.)
_TIE: Final = """\
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() != parent:
    sys.exit("its parent is gone")
os.execv(command[0], command)
"""


def command_line(service: Service) -> tuple[str, ...]:
    """The command that starts a service, on Linux tied to this process's life."""
    if sys.platform != "linux":
        return service.command
    return (sys.executable, "-ISc", _TIE, str(os.getpid()), *service.command)


def environment(service: Service) -> Mapping[str, str]:
    """This process's environment with the service's own on top."""
    return {**inherited_environment(), "PYTHONUNBUFFERED": "1", **service.env}


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to every process of a group; False if there is none left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says so of a group in which only zombies are left.
        return False
    return True


def end_group(group: int, *, seconds: float = 2.0) -> None:
    """Kill whatever is left of a group, and wait for it to be gone (it may hold a port)."""
    end = time.monotonic() + seconds
    while signal_group(group, signal.SIGKILL) and time.monotonic() < end and _lives(group):
        time.sleep(0.01)


def _lives(group: int) -> bool:
    """Whether a group has a process that is more than a zombie.

    Orphans stay zombies until the system's first process, which takes its time, has reaped them.
    """
    if sys.platform != "linux":
        return True
    return any(_group_and_state(each) == (group, True) for each in Path("/proc").glob("[0-9]*"))


def _group_and_state(process: Path) -> tuple[int, bool]:
    """A process's group, and whether it still runs; from proc(5), `stat`."""
    try:
        # The name in parentheses may contain anything; state, parent and group follow it.
        state, _, group, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0, False
    return int(group), state not in "ZX"


#: A child that has ended so often before it was ever ready will not become so.
MAX_START_FAILURES: Final = 3

_KEPT_LINES: Final = 15

_LONGEST_LINE: Final = 2**20

#: What a dead child's pipe still holds is read for so long at most: who left its group may hold it.
_LAST_LINES_SECONDS: Final = 1.0

#: Takes a child's name and one line of its output, or one about it under the name `rmbg`.
LineSink = Callable[[str, str], None]


class ChildState(StrEnum):
    """Where a child is in its life."""

    STARTING = "starting"
    READY = "ready"
    PAUSING = "restarts soon"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """Seconds between a death and the restart."""

    first: float = 0.5
    longest: float = 10.0
    #: A child that lived so long has recovered: its next restart comes quickly again.
    stable: float = 30.0

    def after(self, previous: float | None, lived: float) -> float:
        """The pause after a life of `lived` seconds that followed a pause of `previous`."""
        if previous is None or lived >= self.stable:
            return self.first
        return min(previous * 2, self.longest)


class Child:
    """A service's process over its restarts; `run` owns it from the first start to the end."""

    def __init__(
        self,
        service: Service,
        sink: LineSink,
        *,
        backoff: RestartBackoff,
        inherited: Collection[int] = (),
    ) -> None:
        self.service = service
        self.state = ChildState.STARTING
        #: How often it has died without being told to.
        self.deaths = 0
        #: Why it is not ready.
        self.reason = "it has not begun"
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        #: Set when it was ready for the first time, or will never be.
        self.settled = asyncio.Event()
        self._sink = sink
        self._backoff = backoff
        self._inherited = inherited
        self._stop = asyncio.Event()
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process else None

    async def run(self) -> None:
        """Keep it running until `stop`, then end it with all its descendants."""
        pause = None
        while not self._stop.is_set():
            began = time.monotonic()
            ending = await self._live()
            if self._stop.is_set():
                break
            self._count_death()
            pause = self._backoff.after(pause, time.monotonic() - began)
            self._say(f"{ending}; starting it again in {pause:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
        self.state = ChildState.ENDED

    def stop(self) -> None:
        """Have it ended within its grace time; `run` returns when that is done."""
        self._stop.set()

    def kill(self) -> None:
        """Have it ended at once."""
        self._stop.set()
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)

    def _count_death(self) -> None:
        self.state = ChildState.PAUSING
        self.deaths += 1
        if self.deaths >= MAX_START_FAILURES:
            self.settled.set()

    async def _live(self) -> str:
        """One life of the process; how it ended."""
        started = time.time()
        self.state = ChildState.STARTING
        output = await _Output.open()
        try:
            process = self._process = await self._spawn(output)
        finally:
            output.close_writable()
        pump = asyncio.create_task(self._pump(output.stream))
        watch = asyncio.create_task(self._watch(started))
        try:
            await self._until_ended(process)
        finally:
            watch.cancel()
            # Whatever is left of its group may hold its port or its memory.
            await asyncio.to_thread(end_group, process.pid)
            await asyncio.wait({pump}, timeout=_LAST_LINES_SECONDS)
            pump.cancel()
            output.transport.close()
            self.service.remove_leftovers()
        return _how_it_ended(process)

    async def _spawn(self, output: "_Output") -> Process:
        return await asyncio.create_subprocess_exec(
            *command_line(self.service),
            env=dict(environment(self.service)),
            cwd=self.service.folder,
            stdin=DEVNULL,
            stdout=output.writable,
            stderr=STDOUT,
            start_new_session=True,
            pass_fds=tuple(self._inherited),
        )

    async def _until_ended(self, process: Process) -> None:
        ended = asyncio.create_task(process.wait())
        told = asyncio.create_task(self._stop.wait())
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not ended.done():
            await self._end(process, ended)
        await ended

    async def _end(self, process: Process, ended: asyncio.Task[int]) -> None:
        with suppress(ProcessLookupError):
            # The leader alone: it knows in which order its own children end.
            process.send_signal(self.service.stop_signal)
        await asyncio.wait({ended}, timeout=self.service.grace)
        if not ended.done():
            if self.service.reports_kill:
                self._say(f"did not end within {self.service.grace:g} s; killed")
            signal_group(process.pid, signal.SIGKILL)

    async def _watch(self, started: float) -> None:
        """Ask until it is ready."""
        while True:
            try:
                await asyncio.to_thread(self.service.probe, started)
                break
            except NotReadyError as error:
                self.reason = str(error)
            await asyncio.sleep(self.service.probe_interval)
        self.state = ChildState.READY
        self.settled.set()
        self._say(f"ready after {time.time() - started:.1f} s")

    async def _pump(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:
                line = b"(a line too long to show)\n"
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text:
                self.lines.append(text)
                self._sink(self.service.name, text)

    def _say(self, text: str) -> None:
        self._sink("rmbg", f"{self.service.name} {text}")


@dataclass(frozen=True, slots=True)
class _Output:
    """The pipe that a process writes to.

    It is ours, not asyncio's: with one of its own, `Process.wait` does not return before the last
    descendant that holds the pipe has ended, and an orphan would stop the restart.
    """

    stream: asyncio.StreamReader
    transport: asyncio.ReadTransport
    writable: int

    @classmethod
    async def open(cls) -> "_Output":
        readable, writable = os.pipe()
        stream = asyncio.StreamReader(_LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(readable, "rb", buffering=0)
        )
        return cls(stream, transport, writable)

    def close_writable(self) -> None:
        """Leave the writing end to the process alone."""
        os.close(self.writable)


def _how_it_ended(process: Process) -> str:
    code = process.returncode or 0
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"


class Supervisor:
    """Keeps services running until `stop`; to be used from one event loop.

    Args:
        sink: is given every line.
        backoff: seconds between a death and the restart.
        inherited: file descriptors that stay open in all children.
    """

    def __init__(
        self,
        sink: LineSink,
        *,
        backoff: RestartBackoff | None = None,
        inherited: Collection[int] = (),
    ) -> None:
        self._sink = sink
        self._backoff = backoff or RestartBackoff()
        self._inherited = inherited
        self._keepers: dict[Child, asyncio.Task[None]] = {}

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, in the order of their start."""
        return tuple(self._keepers)

    async def start(self, services: Iterable[Service], *, seconds: float) -> None:
        """Start these side by side, and wait until all have been ready.

        Raises:
            StartError: one was not in time, or keeps dying; the text holds its last lines.
        """
        batch = [self._keep(service) for service in services]
        await asyncio.gather(*(_until_ready(child, seconds) for child in batch))

    async def failure(self) -> None:
        """Wait until the supervision itself of some child breaks, and raise why."""
        keepers = self._keepers.values()
        done, _ = await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
        for keeper in done:
            keeper.result()

    async def stop(self) -> None:
        """End all, stage after stage, each within its grace time."""
        ordered = sorted(self._keepers, key=_stage)
        for _, stage in groupby(ordered, key=_stage):
            await self._stop(list(stage))

    def kill(self) -> None:
        """End all at once, without grace."""
        for child in self._keepers:
            child.kill()

    def _keep(self, service: Service) -> Child:
        child = Child(service, self._sink, backoff=self._backoff, inherited=self._inherited)
        self._keepers[child] = asyncio.create_task(child.run())
        return child

    async def _stop(self, children: list[Child]) -> None:
        for child in children:
            child.stop()
        # A keeper that broke has ended its child all the same; the rest must still be ended.
        keepers = (self._keepers[child] for child in children)
        await asyncio.gather(*keepers, return_exceptions=True)


def _stage(child: Child) -> int:
    return child.service.stop_stage


async def _until_ready(child: Child, seconds: float) -> None:
    try:
        await asyncio.wait_for(child.settled.wait(), seconds)
    except TimeoutError:
        what = f"is not ready after {seconds:.0f} s: {child.reason}"
        raise StartError(_with_last_lines(child, what)) from None
    if child.state is not ChildState.READY and child.deaths >= MAX_START_FAILURES:
        raise StartError(_with_last_lines(child, f"ended {child.deaths} times while starting"))


def _with_last_lines(child: Child, what: str) -> str:
    lines = "\n".join(f"    {line}" for line in child.lines)
    return f"{child.service.name} {what}.\n{lines}".rstrip()
