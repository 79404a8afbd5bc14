"""What people see of `rmbg up`, read from a terminal's cells, and what its log files hold."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from deploy.local import screen as module
from deploy.local import up
from deploy.local.data_folder import open_data_folder
from deploy.local.screen import Facts, Screen, warning_in
from deploy.local.service import NotReadyError, Service, StartError
from deploy.local.stack import Stack
from deploy.local.supervisor import Child, ChildState, RestartBackoff
from tasks.jobs.job import Status
from tests.support.service import settings_of

LONG = "[bold]x[/] /healthz " + "y" * 200
TIME = "2026-11-27T10:53:07Z"


class Terminal(io.StringIO):
    """A terminal of a size, and the cells that it shows."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self._cells = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._cells)
        self.console = Console(
            file=self, force_terminal=True, color_system="standard", width=columns, height=rows
        )
        self.raw = ""
        self.drawn = asyncio.Event()

    def write(self, text: str) -> int:
        self.raw += text
        self.drawn.set()
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._cells.display]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_a_line_is_printed_unchanged_behind_its_name(terminal: Terminal) -> None:
    Screen(terminal.console, stream=True).line("api", LONG)
    assert terminal.raw == f"\x1b[32mapi     | \x1b[0m{LONG}\n"


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        (f"{TIME} [warning  ] job.late [tasks.worker.runner] task_id=a", "job.late task_id=a"),
        (f"{TIME} [info     ] job.accepted [api.submission] task_id=a", None),
        ('{"event": "job.late", "level": "error", "logger": "x", "id": "a"}', "job.late id=a"),
        ('{"event": "job.accepted", "level": "info"}', None),
        ('{"event": "cut o', None),
        ("7:M 27 Nov 2026 10:52:51.279 # WARNING Memory", "WARNING Memory"),
        ("7:M 27 Nov 2026 10:52:51.279 * Ready to accept # connections", None),
        ("W1127 10:52:54.545136 s3_sse_s3.go:861 SSE-S3", "SSE-S3"),
        ("[2026-11-27 10:53:02 +0000] [9264] [ERROR] Worker died", "Worker died"),
    ],
)
def test_warnings_of_every_process_are_found_in_its_lines(line: str, warning: str | None) -> None:
    assert warning_in(line) == warning


def _child(name: str, state: ChildState, *, is_server: bool = False) -> Child:
    service = Service(name, ("true",), address=f"http://{name}", is_server=is_server)
    child = Child(service, lambda *_: None, backoff=RestartBackoff())
    child.state, child.reason = state, "its model is not loaded yet"
    return child


STATES = {"valkey": ChildState.READY, "gpu0": ChildState.STARTING, "api": ChildState.RESTARTING}
FACTS = ("http://127.0.0.1:8000", "http://127.0.0.1:5555", "u2netp", "isnet-general-use")


def _shown(
    terminal: Terminal, folder: Path, children: Sequence[Child], lines: Sequence[tuple[str, str]]
) -> list[str]:
    screen = Screen(terminal.console)
    with screen.showing(Facts(*FACTS, folder), lambda: children):
        for name, text in lines:
            screen.line(name, text)
        screen.redraw()
        return terminal.lines


@pytest.mark.parametrize("size", [(80, 24), (50, 30), (200, 60), (80, 12), (20, 5), (1, 1)])
def test_the_screen_fits_every_terminal(tmp_path: Path, size: tuple[int, int]) -> None:
    children = [_child(f"gpu{number}", ChildState.READY) for number in range(20)]
    children.append(_child("api", ChildState.RESTARTING))
    terminal = Terminal(*size)
    lines = _shown(terminal, tmp_path, children, [("api", "[t] [7] [ERROR] " + "x" * 300)] * 3)
    columns, rows = size
    assert len(lines) == rows
    if rows >= 12:
        assert lines[0].startswith(f"rmbg-queue {module.__version__}  starting"[:columns])
        assert any("api " in line and "restarting" in line for line in lines), lines
        assert any("api" in line and "xxxx" in line for line in lines), lines
        assert lines[-1] == "  Press Ctrl-C to stop all processes." or rows > 40


def test_the_screen_shows_states_warnings_the_model_and_where_to_go(
    terminal: Terminal, tmp_path: Path
) -> None:
    children = [_child(name, state, is_server=name == "valkey") for name, state in STATES.items()]
    said = [
        ("rmbg", "gpu0 ready after 2.0 s"),
        ("rmbg", "api was killed by SIGKILL; restarting in 0.5 s"),
        ("gpu0", f"{TIME} [info     ] quiet [tasks] x=1"),
        *[("gpu0", f"{TIME} [warning  ] job.late [tasks.worker.runner] task_id=a")] * 2,
    ]
    shown = "\n".join(_shown(terminal, tmp_path, children, said))
    for text in (
        "jobs: not known yet",
        "  valkey    ready              0  http://valkey",
        "  gpu0      starting           0  its model is not loaded yet",
        "rmbg api was killed by SIGKILL; restarting in 0.5 s",
        "gpu0 (×2) job.late task_id=a",
        "  try it  curl -F image=@photo.jpg http://127.0.0.1:8000/api/v1/remove-bg",
        "  page    http://127.0.0.1:8000/",
        "  model   u2netp; finer, and slower: make up MODEL=isnet-general-use",
    ):
        assert text in shown
    assert "quiet" not in shown
    assert "ready after" not in shown
    assert (tmp_path / "logs" / "gpu0.log").read_text().count("\n") == 3


def test_on_a_narrow_screen_the_command_can_be_pasted(tmp_path: Path) -> None:
    terminal = Terminal(40)
    _shown(terminal, tmp_path, [], [])
    at = terminal.lines.index("  try it  curl -F image=@photo.jpg \\")
    assert terminal.lines[at + 1] == "http://127.0.0.1:8000/api/v1/remove-bg"


def test_log_files_have_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOG_BYTES", 1000)
    screen = Screen(Console(file=io.StringIO()))
    with screen.showing(Facts(*FACTS, tmp_path), tuple):
        for number in range(100):
            screen.line("api", f"{number:04} {'x' * 90}")
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["api.log", "api.log.1", "api.log.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert "0099" in files[0].read_text()


def test_a_full_disk_takes_log_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "api.log").symlink_to("/dev/full")
    screen = Screen(Console(file=io.StringIO()))
    with screen.showing(Facts(*FACTS, tmp_path), tuple):
        screen.line("api", "a line")


def test_a_person_sees_the_start_a_crash_and_the_end(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "check_stack", lambda *_: None)
    monkeypatch.setattr(up, "_count_jobs", lambda _: lambda: dict.fromkeys(Status, 7))
    monkeypatch.setattr(module, "DRAW_SECONDS", 0.01)
    monkeypatch.setattr(module, "_SOON_SECONDS", 0.01)
    service = Service("api", (sys.executable, "-c", "import time; time.sleep(60)"))
    stack = Stack(settings_of({}), (), (service,), FACTS[0], FACTS[1])

    async def until(text: str) -> None:
        while not any(text in line for line in terminal.lines):
            terminal.drawn.clear()
            await terminal.drawn.wait()

    async def play() -> None:
        screen = Screen(terminal.console)
        with open_data_folder(tmp_path) as folder:
            running = asyncio.create_task(up._run_on_screen(stack, folder, screen))
            await until(f"rmbg-queue {module.__version__}  ready  {FACTS[0]}")
            await until("jobs: 7 done, 7 failed, 7 running, 7 waiting")
            (child,) = screen._children()
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            await until("api was killed by SIGKILL; restarting in 0.5 s")
            await until("api       ready              1")
            os.kill(os.getpid(), signal.SIGINT)
            await running

    asyncio.run(asyncio.wait_for(play(), 60))
    assert any("rmbg    | all processes have stopped" in line for line in terminal.lines)
    # The normal screen and the cursor are back.
    assert terminal.raw.rindex("\x1b[?1049l") > terminal.raw.rindex("\x1b[?1049h")
    assert "\x1b[?25h" in terminal.raw


def test_a_start_that_fails_ends_with_the_reason(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_ready(_since: float) -> None:
        raise NotReadyError("it does not answer")

    monkeypatch.setattr(up, "_count_jobs", lambda _: lambda: None)
    command = (sys.executable, "-c", "raise SystemExit('no such disk')")
    failing = Service("api", command, probe=never_ready)
    stack = Stack(settings_of({}), (), (failing,), FACTS[0], None)

    async def play() -> None:
        with open_data_folder(tmp_path) as folder:
            await up._run_on_screen(stack, folder, Screen(terminal.console))

    with pytest.raises(
        StartError, match=r"api ended 3 times while starting\.\n    no such disk"
    ) as e:
        asyncio.run(asyncio.wait_for(play(), 60))
    assert f"All that was logged is in {tmp_path / 'logs'}." in str(e.value)
