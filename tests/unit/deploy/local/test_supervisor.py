"""The supervisor with real processes that exit, leave orphans and ignore signals."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import psutil
import pytest

from deploy.local.service import NotReadyError, Service, StartError
from deploy.local.supervisor import RestartBackoff, Supervisor

QUICK = RestartBackoff(first=0.01, longest=0.05)
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
#: Starts a grandchild that survives it, as an orphaned gunicorn worker would.
PARENT = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(600)
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""


class Lines:
    """Collects the lines of all children, which a test can await."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []
        self._arrived = asyncio.Event()

    def __call__(self, name: str, text: str) -> None:
        self.all.append((name, text))
        self._arrived.set()

    def of(self, name: str) -> list[str]:
        return [text for each, text in self.all if each == name]

    async def until(self, name: str, count: int) -> list[str]:
        """Wait until a child has printed this number of lines."""
        async with asyncio.timeout(20):
            while len(self.of(name)) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.of(name)


def toy(code: str, name: str = "toy", **more: object) -> Service:
    return Service(name=name, command=(sys.executable, "-c", code), **more)  # type: ignore[arg-type]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def supervise(
    scenario: Callable[[Supervisor, Lines], Coroutine[None, None, None]],
    backoff: RestartBackoff = QUICK,
) -> Lines:
    """Run a scenario with a supervisor, and stop all children after it."""

    async def run() -> Lines:
        lines = Lines()
        supervisor = Supervisor(lines, backoff=backoff)
        try:
            await scenario(supervisor, lines)
        finally:
            await supervisor.stop()
        return lines

    return asyncio.run(run())


def never_ready(since: float) -> None:
    raise NotReadyError(f"still asleep, {since > 0}")


def test_a_killed_child_is_restarted_and_the_reason_is_printed() -> None:
    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await supervisor.start([toy(SLEEP)], seconds=20)
        first = int((await lines.until("toy", 1))[0])
        os.kill(first, signal.SIGKILL)
        second = int((await lines.until("toy", 2))[1])
        assert second != first
        assert supervisor.children[0].pid == second

    lines = supervise(scenario)
    assert "toy was killed by SIGKILL; restarting in 0.01 s" in lines.of("rmbg")


def test_stop_ends_all_descendants() -> None:
    pids: list[int] = []

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await supervisor.start([toy(PARENT)], seconds=20)
        pids.extend(int(pid) for pid in (await lines.until("toy", 1))[0].split())

    supervise(scenario)
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_an_orphaned_grandchild_is_killed_before_the_restart() -> None:
    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await supervisor.start([toy(PARENT)], seconds=20)
        first, grandchild = map(int, (await lines.until("toy", 1))[0].split())
        os.kill(first, signal.SIGKILL)
        await lines.until("toy", 2)
        assert is_gone(grandchild)

    supervise(scenario)


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    pids: list[int] = []

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await supervisor.start([toy(STUBBORN, grace=0.2)], seconds=20)
        pids.append(int((await lines.until("toy", 1))[0]))

    lines = supervise(scenario)
    assert is_gone(pids[0])
    assert lines.of("rmbg")[-1] == "toy did not end within 0.2 s; killed"


def test_kill_does_not_wait_for_grace() -> None:
    took: list[float] = []

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await supervisor.start([toy(STUBBORN, grace=60)], seconds=20)
        await lines.until("toy", 1)
        began = time.monotonic()
        ending = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)
        supervisor.kill()
        await ending
        took.append(time.monotonic() - began)

    supervise(scenario)
    assert took[0] < 30


def test_stages_are_stopped_one_after_the_other() -> None:
    obedient = """
import signal, sys, time
def end(*_):
    print("bye", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("hello", flush=True)
time.sleep(600)
"""

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        stages = {"server": 9, "api": 0, "worker": 2}
        services = [toy(obedient, name, stop_stage=stage) for name, stage in stages.items()]
        await supervisor.start(services, seconds=20)
        for name in stages:
            await lines.until(name, 1)

    lines = supervise(scenario)
    assert [name for name, text in lines.all if text == "bye"] == ["api", "worker", "server"]


def test_a_child_that_keeps_exiting_fails_the_start_with_its_last_lines() -> None:
    async def scenario(supervisor: Supervisor, _: Lines) -> None:
        code = "import sys; print('no such model'); sys.exit(3)"
        with pytest.raises(StartError, match=r"toy ended 3 times while starting") as caught:
            await supervisor.start([toy(code, probe=never_ready)], seconds=20)
        assert "no such model" in str(caught.value)

    lines = supervise(scenario)
    assert "toy ended with status 3; restarting in 0.01 s" in lines.of("rmbg")


def test_a_child_that_is_never_ready_fails_the_start_with_the_reason() -> None:
    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        start = supervisor.start([toy(SLEEP, probe=never_ready)], seconds=1)
        with pytest.raises(StartError, match=r"toy is not ready after 1 s: still asleep, True"):
            await start
        assert len(lines.of("toy")) == 1

    supervise(scenario)


def test_after_a_restart_the_probe_is_called_with_the_new_start() -> None:
    starts: list[float] = []

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await supervisor.start([toy(SLEEP, probe=starts.append)], seconds=20)
        os.kill(int((await lines.until("toy", 1))[0]), signal.SIGKILL)
        # One exit, and ready twice.
        await lines.until("rmbg", 3)

    supervise(scenario)
    assert len(starts) == 2
    assert starts[0] < starts[1] <= time.time()


def test_a_line_that_is_too_long_does_not_stop_the_output() -> None:
    code = f"print('x' * {2**21}); print('after it', flush=True); import time; time.sleep(600)"

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await supervisor.start([toy(code)], seconds=20)
        while "after it" not in lines.of("toy"):
            await lines.until("toy", len(lines.of("toy")) + 1)

    assert supervise(scenario).of("toy")[-1] == "after it"


def test_pauses_double_up_to_a_limit_and_start_over_after_a_long_run() -> None:
    backoff = RestartBackoff(first=0.5, longest=10, stable=30)
    pauses: list[float] = []
    pause: float | None = None
    for uptime in (1, 1, 1, 1, 1, 1, 29.9, 30, 1):
        pause = backoff.next_pause(pause, uptime)
        pauses.append(pause)
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 0.5, 1]


KILLED_SUPERVISOR = """
import os, signal, sys
from pathlib import Path
from deploy.local.service import Service
from tests.support.servers import running

toy = Service("toy", (sys.executable, "-c", sys.argv[1]))
with running(toy, Path(sys.argv[2])) as process:
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_SUPERVISOR, SLEEP, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == int(done.stdout)], timeout=10)
    assert is_gone(int(done.stdout))
