"""Damaged, hostile and rare pictures: a clean refusal, a reasoned failure, or a right cutout."""

import io
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import urllib3
from PIL import Image

from deploy.local.ports import reserved_ports
from inference.errors import InferenceError, ModelError
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.options import Options
from inference.pipeline import remove_background
from inference.probe import probe_image
from tests.support.fuzzed_pictures import Fuzzed, fuzzed
from tests.support.servers import running
from tests.support.service import RunningService, api_service

#: What only a fault of the service's own is called.
_OUR_FAULTS = frozenset({"internal_error", "poison", "lost", "original_missing"})


class _HalfModel:
    """Keeps the left half, whatever it sees."""

    name = "half"

    def warm_up(self) -> None:
        """Nothing is to be loaded."""

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"), stages("inference"):
            mattes = [np.zeros(image.shape[:2], np.float32) for image in images]
            for matte in mattes:
                matte[:, : matte.shape[1] // 2] = 1
            return mattes


def test_the_pipeline_refuses_with_a_reason_or_cuts_out_right() -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - repeats this run
    outcomes: Counter[str] = Counter()
    for each in fuzzed(144, seed):
        outcomes[_cut_out_here(each)] += 1
    assert outcomes["cut out"] > 30, outcomes
    assert outcomes["invalid_image"] > 20, outcomes


def _cut_out_here(each: Fuzzed) -> str:
    try:
        probe_image(each.data)
        result = remove_background(each.data, Options(), _HalfModel())
    except InferenceError as error:
        refusal = error
    else:
        _check_cutout(each, result.data)
        return "cut out"
    assert str(refusal), each.name
    assert not isinstance(refusal, ModelError), each.name
    return refusal.code


def _check_cutout(each: Fuzzed, cutout: bytes) -> None:
    with Image.open(io.BytesIO(cutout)) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGBA"), each.name
        assert each.size in {None, image.size}, each.name
        pixels = np.asarray(image)
    assert not pixels[pixels[..., 3] == 0][:, :3].any(), each.name


def _send(url: str, each: Fuzzed) -> str:
    """Submit one and see it through; what came of it, once that is known to be right."""
    fields = {"image": (each.name, each.data), "cache": "false"}
    answer = urllib3.request("POST", f"{url}/api/v1/remove-bg", fields=fields, timeout=60)
    body = json.loads(answer.data)
    if answer.status != 202:
        assert 400 <= answer.status < 500, (each.name, body)
        assert body["message"], each.name
        return str(body["error"]["type"])
    address = f"{url}/api/v1/tasks/{body['data']['task_id']}?wait=30"
    for _ in range(10):
        task = json.loads(urllib3.request("GET", address, timeout=90).data)["data"]
        if task["status"] in {"succeeded", "failed"}:
            break
    if task["status"] == "succeeded":
        _check_cutout(each, urllib3.request("GET", task["result_url"]).data)
        return "cut out"
    assert task["status"] == "failed", (each.name, task)
    assert task["error"]["message"], each.name
    assert task["error"]["type"] not in _OUR_FAULTS, (each.name, task["error"])
    return f"failed: {task['error']['type']}"


def _send_all(url: str, cases: Sequence[Fuzzed]) -> Counter[str]:
    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(lambda each: _send(url, each), cases))


def test_the_service_does_so_too_and_goes_on(service: RunningService, coffee: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - repeats this run
    outcomes = _send_all(service.url, list(fuzzed(36, seed)))
    assert sum(outcomes.values()) == 36
    service.client.cut_out(coffee, {})


@contextmanager
def _own_api(service: RunningService, log: Path) -> Iterator[tuple[str, int]]:
    with reserved_ports() as ports:
        api = api_service(ports[0], service.env)
        with running(api, log) as process:
            yield f"http://127.0.0.1:{ports[0]}", process.pid


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
    with _own_api(service, tmp_path / "api.log") as (url, api_pid):
        # Every kind has been met by then: what is loaded once is loaded.
        _send_all(url, list(fuzzed(120, seed + 1)))
        pids = {"api": api_pid, "worker": service.model_worker_pid}
        before = {name: _resident_at_rest(pid) for name, pid in pids.items()}
        outcomes = _send_all(url, cases)
        after = {name: _resident_at_rest(pid) for name, pid in pids.items()}
        print(outcomes, before, after)  # noqa: T201 - the figures are the point
        assert sum(outcomes.values()) == 500
        assert outcomes["cut out"] > 100
        for name in pids:
            assert after[name] <= before[name] * 1.1, (name, before, after)
    service.client.cut_out(coffee, {})
