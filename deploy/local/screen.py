"""What people see of `rmbg up`: one screen at a terminal, lines elsewhere; and its log files."""

import asyncio
import json
import logging
import re
import sys
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.local.data_folder import SAMPLE_CUTOUT, make_private_folder
from deploy.local.stack import FLOWER_PASSWORD, FLOWER_USER
from deploy.local.supervisor import SUPERVISOR, Child, ChildState
from inference.version import __version__
from tasks.jobs.job import Status

#: The folder of the logs in the data folder.
LOGS: Final = "logs"
#: Size at which a process's next log file is begun, and how many full ones are kept of each.
_LOG_BYTES: Final = 5 * 2**20
_KEPT_LOGS: Final = 2
#: How often the screen is drawn, and how soon after a change at most.
DRAW_SECONDS: Final = 1.0
_SOON_SECONDS: Final = 0.1
#: Warnings that are kept for the screen.
_KEPT_WARNINGS: Final = 50
#: Of these, the latest that the screen shows even if addresses have to go.
_LEAST_WARNINGS: Final = 3
#: The colours of the processes' names.
_COLORS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")
_NAME_WIDTH: Final = 7
_STATE_COLORS: Final = {
    ChildState.READY: "green",
    ChildState.STOPPED: "dim",
    ChildState.RESTARTING: "red",
}

#: A line of ours at a level from warning on, as columns and as JSON.
_OUR_WARNING: Final = re.compile(r"\S+ \[(?:warning|error|critical) *\] (.*)")
#: The name of the module that has written a line of ours.
_LOGGER: Final = re.compile(r" \[[a-z_.]+\](?: |$)")
_LEVELS: Final = frozenset({"warning", "error", "critical"})
#: What a line of ours as JSON says beside the event and its facts.
_FRAME: Final = ("event", "level", "logger", "timestamp", "exception")
#: Warnings of Valkey, SeaweedFS and gunicorn.
_SERVERS_WARNINGS: Final = (
    re.compile(r"\d+:[A-Z] .{20,30} # (.*)"),
    re.compile(r"[WEF]\d{4} [\d:.]+ +\S+ (.*)"),
    re.compile(r"\[[^]]+\] \[\d+\] \[(?:WARNING|ERROR|CRITICAL)\] (.*)"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the screen says beside the state of the processes."""

    api_url: str
    flower_url: str | None
    model: str
    #: The next better model; empty if there is none.
    better: str
    #: The data folder.
    data: Path

    def lines(self) -> list[str]:
        """Return how to try the service, and its addresses, the most important ones first."""
        hint = f"; finer, and slower: make up MODEL={self.better}" if self.better else ""
        login = f"(user {FLOWER_USER}, password in file {FLOWER_PASSWORD})"
        return [
            f"try it  curl -F image=@photo.jpg {self.api_url}/api/v1/remove-bg",
            f"page    {self.api_url}/",
            f"model   {self.model}{hint}",
            f"data    {self.data}",
            f"logs    {self.data / LOGS}",
            f"sample  {self.data / SAMPLE_CUTOUT}",
            *([f"Flower  {self.flower_url} {login}"] if self.flower_url else []),
            f"docs    {self.api_url}/docs",
        ]


def warning_in(line: str) -> str | None:
    """Return what a process warns of in a line, without time and level; None if it does not."""
    if line.startswith("{"):
        return _warning_in_json(line)
    for pattern in (_OUR_WARNING, *_SERVERS_WARNINGS):
        if found := pattern.match(line):
            return _LOGGER.sub(" ", found[1], count=1)
    return None


def _warning_in_json(line: str) -> str | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if said.get("level") not in _LEVELS:
        return None
    facts = (f"{name}={value}" for name, value in said.items() if name not in _FRAME)
    return " ".join((str(said.get("event")), *facts))


class _LogFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of the library
        """Drop a line that cannot be written, as on a full disk: the services matter more."""


class Logs:
    """Writes each process's lines to a file of its own, of bounded size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _LogFile] = {}
        make_private_folder(folder)

    def write(self, name: str, line: str) -> None:
        """Append a line to the file of a process."""
        file = self._files.get(name)
        if file is None:
            path = self._folder / f"{name}.log"
            file = self._files[name] = _LogFile(
                path, maxBytes=_LOG_BYTES, backupCount=_KEPT_LOGS, encoding="utf-8", delay=True
            )
        file.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            with suppress(OSError):  # As `handleError`, of what was not written yet.
                file.close()


@dataclass(slots=True)
class _Warning:
    at: float
    name: str
    text: str
    times: int = 1


class Screen:
    """Shows the service: at a terminal as one screen that stays, elsewhere as lines.

    Args:
        console: where to.
        stream: show the logs of all processes, as lines.
    """

    def __init__(self, console: Console, *, stream: bool = False) -> None:
        self._console = console
        self._stream = stream
        self._styles: dict[str, str] = {SUPERVISOR: "bold"}
        self._logs: Logs | None = None
        self._warnings: deque[_Warning] = deque(maxlen=_KEPT_WARNINGS)
        self._live: Live | None = None
        self._facts: Facts | None = None
        self._children: Callable[[], Sequence[Child]] = tuple
        self._phase = "starting"
        self._changed = asyncio.Event()
        #: The number of jobs by status; None while Redis does not say.
        self._counts: dict[Status, int] | None = None

    @contextmanager
    def showing(self, facts: Facts, children: Callable[[], Sequence[Child]]) -> Iterator[None]:
        """Show these processes, and write their logs, for as long as the block lasts."""
        self._facts, self._children = facts, children
        with ExitStack() as stack:
            self._logs = Logs(facts.data / LOGS)
            stack.callback(self._logs.close)
            if self._stays:
                stack.enter_context(_quiet_keyboard())
                self._live = stack.enter_context(
                    Live(
                        console=self._console,
                        screen=True,
                        auto_refresh=False,
                        redirect_stdout=False,
                        redirect_stderr=False,
                        get_renderable=self._picture,
                    )
                )
            try:
                yield
            finally:
                self._logs = None
                self._live = None

    @property
    def _stays(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal and not self._stream

    def line(self, name: str, text: str) -> None:
        """Take a line of a process, or of its supervision."""
        if self._logs is not None:
            self._logs.write(name, text)
        warning = self._warning(name, text)
        if warning is not None:
            self._remember(name, warning)
        if self._live is not None:
            self._changed.set()
        elif self._stream or warning is not None or name == SUPERVISOR:
            self._print(name, text)

    def _warning(self, name: str, text: str) -> str | None:
        if name == SUPERVISOR:
            return None if " ready after " in text else text
        child = next((each for each in self._children() if each.service.name == name), None)
        starts = child is not None and child.state is not ChildState.READY
        if child is not None and child.service.is_server and (starts or self._phase == "stopping"):
            return None  # Notes on its start and its end, which the supervision reports.
        return warning_in(text)

    def _remember(self, name: str, text: str) -> None:
        last = self._warnings[-1] if self._warnings else None
        if last is not None and (last.name, last.text) == (name, text):
            last.times += 1
            last.at = time.time()
        else:
            self._warnings.append(_Warning(time.time(), name, text))

    def _print(self, name: str, text: str) -> None:
        """Print one line of a process behind its name, neither wrapped nor read for markup."""
        style = self._styles.setdefault(name, _COLORS[len(self._styles) % len(_COLORS)])
        line = Text.assemble((f"{name:<{_NAME_WIDTH}} | ", style), Text.from_ansi(text))
        self._console.print(line, soft_wrap=True, highlight=False)

    def ready(self) -> None:
        """Say that all processes are ready and the self-check has passed, and where they are."""
        self._phase = "ready"
        self._changed.set()
        if self._facts is None or self._live is not None:
            return
        table = Table("name", "pid", "address", "state")
        for child in self._children():
            color = "green" if child.state is ChildState.READY else "yellow"
            state = f"[{color}]{child.state}[/]"
            service = child.service
            table.add_row(service.name, str(child.pid or "-"), escape(service.address), state)
        self._console.print(table)
        lines = [
            f"ready: {self._facts.api_url}",
            *(f"  {line}" for line in self._facts.lines()),
            "Press Ctrl-C to stop all processes.",
        ]
        self._console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)

    def stopping(self, error: BaseException | None = None) -> None:
        """Say that all processes are stopped, for an error if there is one."""
        self._phase = "stopping"
        if error is not None:
            self._remember(SUPERVISOR, str(error).splitlines()[0])
        self._changed.set()
        if self._live is None:
            self._print(SUPERVISOR, "stopping all processes; Ctrl-C again kills them at once")

    def stopped(self) -> None:
        """Say that all processes have stopped."""
        self._print(SUPERVISOR, "all processes have stopped")

    def error(self, error: Exception) -> None:
        """Print why the service cannot run."""
        self._console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)

    async def keep_drawn(self, count: Callable[[], dict[Status, int] | None]) -> None:
        """Draw the screen every second, and soon after each change; nothing where there is none.

        `count` asks for the number of jobs by status, from a thread.
        """
        while self._live is not None:
            self._draw(self._live)
            self._counts = await asyncio.to_thread(count)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), DRAW_SECONDS)
            self._changed.clear()
            await asyncio.sleep(_SOON_SECONDS)

    def redraw(self) -> None:
        """Draw the screen anew, as after the terminal has changed its size."""
        if self._live is not None:
            self._draw(self._live)

    def _draw(self, live: Live) -> None:
        # A terminal that has gone away is no reason to stop: SIGHUP tells that one.
        with suppress(OSError):
            live.refresh()

    def _picture(self) -> Group:
        lines = self._frame(*self._console.size)
        for line in lines:
            line.no_wrap = True
        return Group(*lines)

    def _frame(self, width: int, height: int) -> list[Text]:
        """Return the lines of the screen: as much of each part as there is room for.

        The processes come first, then the latest warnings and the addresses, which are wrapped.
        """
        head = [self._headline(), Text(f"  {self._jobs()}"), Text()]
        advice = [Text(), Text(f"  {self._advice()}", style="dim")]
        room = height - len(head) - len(advice)
        # Beside a process that needs a look, and a heading for each part.
        latest = min(len(self._warnings), _LEAST_WARNINGS, max(0, (room - 4) // 2))
        kept = latest + 2 if latest else 0
        rows = self._rows(room - kept)
        room -= len(rows)
        foot = self._told(width)
        foot = foot[: max(0, room - kept - 1)]
        room -= len(foot) + (1 if foot else 0) + 2
        warnings = [self._warning_row(each) for each in self._warnings][-room:] if room > 0 else []
        if warnings:
            warnings = [Text(), Text("  last warnings", style="bold"), *warnings]
        lines = [*head, *rows, *warnings, *([Text()] if foot else []), *foot, *advice]
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return lines[:height]

    def _told(self, width: int) -> list[Text]:
        """Return the facts, wrapped; the command among them so that a shell takes it whole."""
        lines = [f"  {line}" for line in (self._facts.lines() if self._facts else ())]
        wrapped = [list(Text(line).wrap(self._console, max(1, width - 2))) for line in lines]
        for part in wrapped[0][:-1] if wrapped else ():
            part.append("\\" if part.plain.endswith(" ") else " \\")
        return [part for parts in wrapped for part in parts]

    def _headline(self) -> Text:
        color = {"ready": "green", "stopping": "red"}.get(self._phase, "yellow")
        url = self._facts.api_url if self._facts else ""
        return Text.assemble(
            (f"rmbg-queue {__version__}  ", "bold"), (self._phase, f"bold {color}"), f"  {url}"
        )

    def _jobs(self) -> str:
        if self._counts is None:
            return "jobs: not known yet" if self._phase == "starting" else "jobs: not known"
        done, failed = self._counts[Status.SUCCEEDED], self._counts[Status.FAILED]
        waiting, running = self._counts[Status.QUEUED], self._counts[Status.PROCESSING]
        return f"jobs: {done} done, {failed} failed, {running} running, {waiting} waiting"

    def _rows(self, room: int) -> list[Text]:
        """Return a row for each process, or for those that need a look if there is no room."""
        children = list(self._children())
        shown = children
        if len(children) > room - 1:
            children.sort(key=lambda child: child.state is ChildState.READY)
            shown = children[: max(0, room - 2)]
        rows = [Text(f"  {'process':<9} {'state':<11} {'restarts':>8}  where", style="bold")]
        rows += [self._row(child) for child in shown]
        if len(shown) < len(children):
            left = children[len(shown) :]
            ready = sum(child.state is ChildState.READY for child in left)
            rows.append(Text(f"  and {len(left)} more, {ready} of them ready"))
        return rows

    @staticmethod
    def _row(child: Child) -> Text:
        waits = child.state in {ChildState.STARTING, ChildState.RESTARTING}
        where = child.reason if waits else child.service.address
        return Text.assemble(
            f"  {child.service.name:<9} ",
            (f"{child.state:<11}", _STATE_COLORS.get(child.state, "yellow")),
            f" {child.exits:>8}  {where}",
        )

    @staticmethod
    def _warning_row(warning: _Warning) -> Text:
        at = time.strftime("%H:%M:%S", time.localtime(warning.at))
        again = f" (×{warning.times})" if warning.times > 1 else ""
        return Text.assemble(f"  {at} ", (warning.name, "yellow"), f"{again} {warning.text}")

    def _advice(self) -> str:
        if self._phase == "stopping":
            return "Stopping all processes; Ctrl-C again kills them at once."
        return "Press Ctrl-C to stop all processes."


@contextmanager
def _quiet_keyboard() -> Iterator[None]:
    """Keep keys from writing on the screen, stopping it (Ctrl-S) or suspending it (Ctrl-Z)."""
    if not sys.stdin.isatty():
        yield
        return
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    changed = termios.tcgetattr(handle)
    changed[0] &= ~termios.IXON
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    changed[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(handle, termios.TCSANOW, changed)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(handle, termios.TCSAFLUSH, before)
