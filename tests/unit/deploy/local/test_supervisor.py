"""The supervisor with real processes that exit, leave orphans and ignore signals."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine

import psutil
import pytest

from deploy.local.service import NotReadyError, Service, StartError
from deploy.local.supervisor import RestartBackoff, Supervisor

QUICK = RestartBackoff(first=0.01, longest=0.05)
SLEEP = "echo $$; exec sleep 600"
#: Starts a grandchild that survives it, as an orphaned gunicorn worker would.
PARENT = "sleep 600 & echo $$ $!; wait"
STUBBORN = "trap '' TERM; echo $$; sleep 600"
OBEDIENT = "trap 'echo bye; exit' TERM; echo hello; sleep 600 & wait"


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
    return Service(name=name, command=("/bin/sh", "-c", code), **more)  # type: ignore[arg-type]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def supervise(
    *services: Service,
    scenario: Callable[[Supervisor, Lines], Coroutine[None, None, None]] | None = None,
    seconds: float = 20,
) -> Lines:
    """Start services within a time, run a scenario, and stop all children after it."""

    async def run() -> Lines:
        lines = Lines()
        supervisor = Supervisor(lines, backoff=QUICK)
        try:
            await supervisor.start(services, seconds=seconds)
            if scenario:
                await scenario(supervisor, lines)
        finally:
            await supervisor.stop()
        return lines

    return asyncio.run(run())


def never_ready(since: float) -> None:
    raise NotReadyError(f"still asleep, {since > 0}")


def test_a_killed_child_is_restarted_and_at_the_end_all_descendants_are_gone() -> None:
    starts: list[float] = []
    pids: list[int] = []

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        first, orphan = map(int, (await lines.until("toy", 1))[0].split())
        os.kill(first, signal.SIGKILL)
        pids.extend(map(int, (await lines.until("toy", 2))[1].split()))
        assert is_gone(orphan), "killed before the restart"
        assert supervisor.children[0].pid == pids[0] != first
        await lines.until("rmbg", 3)  # one exit, and ready twice

    lines = supervise(toy(PARENT, probe=starts.append), scenario=scenario)
    ends = "toy was killed by SIGKILL; restarting in 0.01 s. Linux kills where memory runs out;"
    assert any(line.startswith(ends) for line in lines.of("rmbg"))
    assert len(starts) == 2
    assert starts[0] < starts[1] <= time.time(), "the probe is called with the new start"
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    pids: list[int] = []

    async def scenario(_: Supervisor, lines: Lines) -> None:
        pids.append(int((await lines.until("toy", 1))[0]))

    lines = supervise(toy(STUBBORN, grace=0.2), scenario=scenario)
    assert is_gone(pids[0])
    assert lines.of("rmbg")[-1] == "toy did not end within 0.2 s; killed"


def test_kill_does_not_wait_for_grace() -> None:
    took: list[float] = []

    async def scenario(supervisor: Supervisor, lines: Lines) -> None:
        await lines.until("toy", 1)
        began = time.monotonic()
        ending = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)
        supervisor.kill()
        await ending
        took.append(time.monotonic() - began)

    supervise(toy(STUBBORN, grace=60), scenario=scenario)
    assert took[0] < 30


def test_stages_are_stopped_one_after_the_other() -> None:
    stages = {"server": 9, "api": 0, "worker": 2}

    async def scenario(_: Supervisor, lines: Lines) -> None:
        for name in stages:
            await lines.until(name, 1)

    services = [toy(OBEDIENT, name, stop_stage=stage) for name, stage in stages.items()]
    lines = supervise(*services, scenario=scenario)
    assert [name for name, text in lines.all if text == "bye"] == ["api", "worker", "server"]


@pytest.mark.parametrize(
    ("code", "seconds", "reason"),
    [
        ("echo no such disk; exit 3", 20, "(?s)toy ended 3 times while starting.*no such disk"),
        (SLEEP, 4, "toy is not ready after 4 s: still asleep, True"),
    ],
)
def test_a_child_that_never_gets_ready_fails_the_start_with_the_reason(
    code: str, seconds: float, reason: str
) -> None:
    with pytest.raises(StartError, match=reason):
        supervise(toy(code, probe=never_ready), seconds=seconds)


def test_a_line_that_is_too_long_does_not_stop_the_output() -> None:
    code = f"head -c {2**21} /dev/zero | tr '\\0' x; echo; echo after it; exec sleep 600"

    async def scenario(_: Supervisor, lines: Lines) -> None:
        while "after it" not in lines.of("toy"):
            await lines.until("toy", len(lines.of("toy")) + 1)

    assert supervise(toy(code), scenario=scenario).of("toy")[-1] == "after it"


def test_pauses_double_up_to_a_limit_and_start_over_after_a_long_run() -> None:
    backoff = RestartBackoff(first=0.5, longest=10, stable=30)
    pauses: list[float] = []
    for uptime in (1, 1, 1, 1, 1, 1, 29.9, 30, 1):
        pauses.append(backoff.next_pause(pauses[-1] if pauses else None, uptime))
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 0.5, 1]
