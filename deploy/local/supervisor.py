"""Start services together, restart those that exit, and stop all of them in order.

Each child leads its own process group. On Linux the kernel kills it when the supervisor exits.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from deploy.local.service import NotReadyError, Service, StartError, memory_bytes
from tasks.settings import child_variables

#: After this number of exits without having been ready, a child has failed to start.
MAX_START_FAILURES: Final = 3
_KEPT_LINES: Final = 15
_MAX_LINE_BYTES: Final = 2**20
#: The longest that the rest of an exited child's output is read: a descendant that has left the
#: process group may keep the pipe open.
_DRAIN_SECONDS: Final = 1.0

#: The name under which lines about a child come.
SUPERVISOR: Final = "rmbg"
#: Called with a child's name and one line of its output, or with `SUPERVISOR` and a line about one.
LineSink = Callable[[str, str], None]


class ChildState(StrEnum):
    """The state of a child, as the screen shows it."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """The pause between an exit and the restart, which doubles from exit to exit, in seconds."""

    first: float = 0.5
    longest: float = 10.0
    #: After an uptime as long, the next pause is the first one again.
    stable: float = 30.0

    def next_pause(self, previous: float | None, uptime: float) -> float:
        """Return the pause after an uptime; `previous` is the last one, None if there was none."""
        if previous is None or uptime >= self.stable:
            return self.first
        return min(previous * 2, self.longest)


def _memory_hint(ending: str) -> str:
    """Return a sentence about memory, for want of which Linux may have sent SIGKILL."""
    if not ending.endswith("SIGKILL"):
        return ""
    memory = memory_bytes() / 2**20
    return f". Linux kills where memory runs out; there are {memory:,.0f} MiB here"


class Child:
    """The process of a service, over all its restarts."""

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
        #: How many times the process has exited without being stopped.
        self.exits = 0
        #: Why it is not ready.
        self.reason = "not started"
        #: Its last lines of output.
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        #: Set when it was ready for the first time, or failed to start too often.
        self.start_decided = asyncio.Event()
        self._sink = sink
        self._backoff = backoff
        self._inherited = inherited
        self._stop_requested = asyncio.Event()
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def run(self) -> None:
        """Keep the process running until `stop`, then end it with all its descendants."""
        pause = None
        while not self._stop_requested.is_set():
            started = time.monotonic()
            ending = await self._run_once()
            if self._stop_requested.is_set():
                break
            self.state = ChildState.RESTARTING
            self.exits += 1
            if self.exits >= MAX_START_FAILURES:
                self.start_decided.set()
            pause = self._backoff.next_pause(pause, time.monotonic() - started)
            self._report(f"{ending}; restarting in {pause:g} s{_memory_hint(ending)}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop_requested.wait(), pause)
        self.state = ChildState.STOPPED

    def stop(self) -> None:
        """Request that the process ends within its grace time; `run` returns when it has."""
        self._stop_requested.set()

    def kill(self) -> None:
        """Kill the process group at once."""
        self._stop_requested.set()
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)

    async def _run_once(self) -> str:
        """Run the process from start to exit, and return how it ended."""
        started_at = time.time()
        self.state = ChildState.STARTING
        # With asyncio's own pipe, `Process.wait` returns only when the last descendant that holds
        # it has exited, so that an orphan would prevent the restart.
        readable, writable = os.pipe()
        output = asyncio.StreamReader(_MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(readable, "rb", buffering=0)
        )
        try:
            process = self._process = await self._spawn(writable)
        finally:
            # So that the child's exit closes the pipe.
            os.close(writable)
        forwarding = asyncio.create_task(self._forward(output))
        probing = asyncio.create_task(self._probe_until_ready(started_at))
        try:
            await self._wait_for_exit(process)
        finally:
            probing.cancel()
            # Other processes of its group may still hold its port or its memory.
            await asyncio.to_thread(kill_group, process.pid)
            await asyncio.wait({forwarding}, timeout=_DRAIN_SECONDS)
            forwarding.cancel()
            transport.close()
            self.service.remove_leftovers()
        code = process.returncode or 0
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with status {code}"

    async def _spawn(self, output: int) -> Process:
        return await asyncio.create_subprocess_exec(
            *command_line(self.service),
            env=environment(self.service),
            cwd=self.service.folder,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            start_new_session=True,
            pass_fds=tuple(self._inherited),
        )

    async def _wait_for_exit(self, process: Process) -> None:
        """Wait until the process exits by itself, or `stop` is called and it has been ended."""
        exited = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stop_requested.wait())
        await asyncio.wait({exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not exited.done():
            with suppress(ProcessLookupError):
                # The first process alone: it ends its own children in its own order.
                process.send_signal(self.service.stop_signal)
            await asyncio.wait({exited}, timeout=self.service.grace)
        if not exited.done():
            if self.service.reports_kill:
                self._report(f"did not end within {self.service.grace:g} s; killed")
            signal_group(process.pid, signal.SIGKILL)
        await exited

    async def _probe_until_ready(self, started_at: float) -> None:
        while True:
            try:
                await asyncio.to_thread(self.service.probe, started_at)
                break
            except NotReadyError as error:
                self.reason = str(error)
            await asyncio.sleep(self.service.probe_interval)
        self.state = ChildState.READY
        self.start_decided.set()
        self._report(f"ready after {time.time() - started_at:.1f} s")

    async def _forward(self, output: asyncio.StreamReader) -> None:
        """Give each line of the output to the sink."""
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

    def _report(self, text: str) -> None:
        self._sink(SUPERVISOR, f"{self.service.name} {text}")


#: A bare Python runs this in the new process, and then becomes the real program: it has Linux kill
#: the process when the parent exits, even by kill -9. (`preexec_fn` could do this as well, but may
#: deadlock in a parent that has threads.)
_DIE_WITH_PARENT: Final = """\
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() != parent:
    sys.exit("its parent is gone")
os.execv(command[0], command)
"""


def command_line(service: Service) -> tuple[str, ...]:
    """Return the command that starts a service; on Linux it is killed when this process exits."""
    if sys.platform != "linux":
        return service.command
    return (sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *service.command)


def environment(service: Service) -> dict[str, str]:
    """Return this process's environment with the service's variables added."""
    return child_variables({"PYTHONUNBUFFERED": "1", **service.env})


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to all processes of a group; return False if there is none."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS raises this for a group that has only zombies left.
        return False
    return True


def kill_group(group: int, *, seconds: float = 2.0) -> None:
    """Kill all processes of a group, and wait until they have exited: one may hold a port."""
    deadline = time.monotonic() + seconds
    while (
        signal_group(group, signal.SIGKILL)
        and time.monotonic() < deadline
        and _has_running_process(group)
    ):
        time.sleep(0.01)


def _has_running_process(group: int) -> bool:
    """Return whether a group has a process that is no zombie.

    Orphans stay zombies until the system's first process reaps them, which may take a while.
    """
    if sys.platform != "linux":
        return True
    return any(_group_and_state(each) == (group, True) for each in Path("/proc").glob("[0-9]*"))


def _group_and_state(process: Path) -> tuple[int, bool]:
    """Return a process's group, and whether it still runs, from its `stat` file: see proc(5)."""
    try:
        # The name in parentheses may contain any character; state, parent and group follow it.
        state, _, group, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0, False
    return int(group), state not in "ZX"


class Supervisor:
    """Keeps services running until `stop`; to be used from one event loop.

    The file descriptors `inherited` stay open in all children.
    """

    def __init__(
        self,
        sink: LineSink,
        *,
        backoff: RestartBackoff = RestartBackoff(),
        inherited: Collection[int] = (),
    ) -> None:
        self._sink = sink
        self._backoff = backoff
        self._inherited = inherited
        self._tasks: dict[Child, asyncio.Task[None]] = {}

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, in the order of their start."""
        return tuple(self._tasks)

    async def start(self, services: Iterable[Service], *, seconds: float) -> None:
        """Start services at the same time, and wait until all have been ready.

        Raises:
            StartError: one was not ready in time, or kept exiting; with its last lines.
        """
        started = [
            Child(service, self._sink, backoff=self._backoff, inherited=self._inherited)
            for service in services
        ]
        self._tasks |= {child: asyncio.create_task(child.run()) for child in started}
        await asyncio.gather(*(_wait_for_start(child, seconds) for child in started))

    async def wait_for_failure(self) -> None:
        """Wait until the supervision of a child fails, and raise its error."""
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Stop all children, stage after stage, each within its grace time."""
        for stage in sorted({child.service.stop_stage for child in self._tasks}):
            children = [child for child in self._tasks if child.service.stop_stage == stage]
            for child in children:
                child.stop()
            # A task that failed has ended its child, too; the others must still be stopped.
            ended = (self._tasks[child] for child in children)
            await asyncio.gather(*ended, return_exceptions=True)

    def kill(self) -> None:
        """Kill all children without grace time."""
        for child in self._tasks:
            child.kill()


async def _wait_for_start(child: Child, seconds: float) -> None:
    try:
        await asyncio.wait_for(child.start_decided.wait(), seconds)
    except TimeoutError:
        what = f"is not ready after {seconds:.0f} s: {child.reason}"
        raise StartError(_with_last_lines(child, what)) from None
    if child.state is not ChildState.READY and child.exits >= MAX_START_FAILURES:
        raise StartError(_with_last_lines(child, f"ended {child.exits} times while starting"))


def _with_last_lines(child: Child, what: str) -> str:
    lines = "\n".join(f"    {line}" for line in child.lines)
    return f"{child.service.name} {what}.\n{lines}".rstrip()
