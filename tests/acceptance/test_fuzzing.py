"""Damaged, hostile and rare pictures: a clean refusal, a reasoned failure, or a right cutout."""

import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import urllib3

from tests.support.fuzzed_pictures import KINDS, Fuzzed, fuzzed
from tests.support.service import RunningApi, RunningService, running_api

#: Every kind once; the full-size test has the many.
COUNT = len(KINDS)
#: What only a fault of the service's own is called.
_OUR_FAULTS = frozenset({"internal_error", "poison", "lost", "original_missing"})


def _send(api: RunningApi, each: Fuzzed) -> str:
    """Submit one and see it through; what came of it, once that is known to be right."""
    answer = api.submit(each.data)
    body = json.loads(answer.data)
    if answer.status != 202:
        assert 400 <= answer.status < 500, (each.name, body)
        assert body["message"], each.name
        return str(body["error"]["type"])
    address = f"{api.url}/api/v1/tasks/{body['data']['task_id']}?wait=30"
    for _ in range(10):
        task = json.loads(urllib3.request("GET", address, timeout=90).data)["data"]
        if task["status"] in {"succeeded", "failed"}:
            break
    if task["status"] == "succeeded":
        each.check_cutout(urllib3.request("GET", task["result_url"]).data)
        return "cut out"
    assert task["status"] == "failed", (each.name, task)
    assert task["error"]["message"], each.name
    assert task["error"]["type"] not in _OUR_FAULTS, (each.name, task["error"])
    return f"failed: {task['error']['type']}"


def _send_all(api: RunningApi, cases: Sequence[Fuzzed]) -> Counter[str]:
    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(lambda each: _send(api, each), cases))


def test_the_service_refuses_with_a_reason_or_cuts_out_and_goes_on(
    service: RunningService, coffee: Path
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - repeats this run
    outcomes = _send_all(service.api, list(fuzzed(COUNT, seed)))
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
        _send_all(api, list(fuzzed(120, seed + 1)))
        pids = {"api": api.pid, "worker": service.model_worker_pid}
        before = {name: _resident_at_rest(pid) for name, pid in pids.items()}
        outcomes = _send_all(api, cases)
        after = {name: _resident_at_rest(pid) for name, pid in pids.items()}
        print(outcomes, before, after)  # noqa: T201 - the figures are the point
        assert sum(outcomes.values()) == 500
        assert outcomes["cut out"] > 100
        for name in pids:
            assert after[name] <= before[name] * 1.1, (name, before, after)
    service.client.cut_out(coffee, {})
