"""One service kept running: started, watched until ready, restarted when it dies, ended."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from deploy.local.errors import NotReadyError
from deploy.local.processes import command_line, end_group, environment, signal_group
from deploy.local.services import Service

#: A child that has ended so often before it was ever ready will not become so.
HOPELESS_DEATHS: Final = 3
_KEPT_LINES: Final = 15
_LONGEST_LINE: Final = 2**20
#: What a dead child's pipe still holds is read for so long at most: who left its group may hold it.
_LAST_LINES_SECONDS: Final = 1.0

#: Takes a child's name and one line of its output, or one about it under the name `rmbg`.
LineSink = Callable[[str, str], None]


class State(StrEnum):
    """Where a child is in its life."""

    STARTING = "starting"
    READY = "ready"
    PAUSING = "restarts soon"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Backoff:
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
        backoff: Backoff,
        inherited: Collection[int] = (),
    ) -> None:
        self.service = service
        self.state = State.STARTING
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
        self.state = State.ENDED

    def stop(self) -> None:
        """Have it ended within its grace time; `run` returns when that is done."""
        self._stop.set()

    def kill(self) -> None:
        """Have it ended at once."""
        self._stop.set()
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)

    def _count_death(self) -> None:
        self.state = State.PAUSING
        self.deaths += 1
        if self.deaths >= HOPELESS_DEATHS:
            self.settled.set()

    async def _live(self) -> str:
        """One life of the process; how it ended."""
        started = time.time()
        self.state = State.STARTING
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
        self.state = State.READY
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
