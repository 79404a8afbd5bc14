"""Damaged, hostile and rare pictures: a clean refusal, a reasoned failure, or a right cutout."""

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rmbg_client import Bytes, Client, NoCutoutError, RetryPolicy, ServiceError, TaskError
from tests.support.fuzzed_pictures import KINDS, Fuzzed, fuzzed
from tests.support.service import RunningService, running_api

#: Every kind once; the full-size test has the many.
COUNT = len(KINDS)
#: What only a fault of the service's own is called.
_OUR_FAULTS = frozenset({"internal_error", "poison", "lost", "original_missing"})


def _send_all(url: str, cases: Sequence[Fuzzed]) -> Counter[str]:
    """Submit all and see them through; what came of them, once that is known to be right."""

    def send(each: Fuzzed) -> str:
        try:
            each.check_cutout(client.remove(Bytes(each.data, each.name), cache=False))
        except ServiceError as refused:
            outcome, clean = refused.type, refused.status < 500 and bool(str(refused))
        except NoCutoutError as failed:
            error = failed.task.error or TaskError("lost", "", retryable=False)
            outcome = f"failed: {error.type}"
            clean = error.type not in _OUR_FAULTS and bool(error.message)
        else:
            return "cut out"
        assert clean, (each.name, outcome)
        return outcome

    once = RetryPolicy(attempts=1)
    with Client(url, retries=once) as client, ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(send, cases))


def test_the_service_refuses_with_a_reason_or_cuts_out_and_goes_on(
    service: RunningService, coffee: Path
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - repeats this run
    outcomes = _send_all(service.url, list(fuzzed(COUNT, seed)))
    assert sum(outcomes.values()) == COUNT
    service.client.cut_out(coffee, {})


def _resident(pid: int) -> int:
    """Bytes in memory of a process and its children."""
    root = psutil.Process(pid)
    return sum(each.memory_info().rss for each in [root, *root.children(recursive=True)])


def _resident_at_rest(pid: int) -> int:
    """As `_resident`, once what is still being given back has been."""
    least = _resident(pid)
    for _ in range(20):
        time.sleep(0.5)  # memory's return is announced by no event
        least = min(least, _resident(pid))
    return least


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_hundred_of_them_leave_no_memory_behind(
    service: RunningService, tmp_path: Path, coffee: Path
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - repeats this run
    cases = list(fuzzed(500, seed))
    with running_api(service.env, tmp_path / "api.log", ready="/healthz/ready") as api:
        # Every kind has been met by then: what is loaded once is loaded.
        _send_all(api.url, list(fuzzed(120, seed + 1)))
        pids = {"api": api.pid, "worker": service.model_worker_pid}
        before = {name: _resident_at_rest(pid) for name, pid in pids.items()}
        outcomes = _send_all(api.url, cases)
        after = {name: _resident_at_rest(pid) for name, pid in pids.items()}
        print(outcomes, before, after)  # noqa: T201 - the figures are the point
        assert sum(outcomes.values()) == 500
        assert outcomes["cut out"] > 100
        for name in pids:
            assert after[name] <= before[name] * 1.1, (name, before, after)
    service.client.cut_out(coffee, {})
