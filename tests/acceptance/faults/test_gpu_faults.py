"""Faults of a GPU, under two workers that share it.

They are real with `--gpu cuda:0`. Without, torch's errors of such faults are raised on the CPU.
"""

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pytest
from PIL import Image

from deploy.bench.gpu_share import stand_in_settings
from tasks.jobs.job import Status
from tasks.worker_registry import MAX_FAULTS
from tests.support.cluster import WORKERS, Cluster, at, started
from tests.support.faulty_gpu import FULL, FULL_START, MARKED, TRAP, TRAP_ONCE
from tests.support.paths import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.slow]

#: A first start on a GPU compiles, and a fault may cost a start.
SECONDS = 300.0
#: More memory than any picture before it needed.
LARGE = (3000, 2000)


@pytest.fixture(scope="module")
def shared(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    device, folder = pytestconfig.getoption("gpu"), tmp_path_factory.mktemp("gpu")
    model = "birefnet-tiny" if device == "cpu" else "rmbg-2.0"
    settings = {**stand_in_settings(model, folder), "RMBG_DEVICE": device}
    app = "tests.support.faulty_gpu_app"
    make = partial(Cluster, folder, settings=settings, app=app, model=model, ready_seconds=SECONDS)
    with started(make) as running:
        yield running


def photo(number: int, red: int = 128, size: tuple[int, int] = (640, 480)) -> bytes:
    pixels = np.full((size[1], size[0], 3), (red, 128, 128), np.uint8)
    pixels[:, size[0] // 3 : size[0] // 2] = 20 * number, 60, 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def submit(
    made: Cluster, count: int, red: int = 128, size: tuple[int, int] = (640, 480)
) -> list[str]:
    return [made.submit(photo(number, red, size)) for number in range(count)]


def succeed(made: Cluster, jobs: list[str]) -> None:
    for done in made.wait_final(jobs, SECONDS):
        assert done.status is Status.SUCCEEDED, (done, made.logs())
        made.assert_one_result(done)


@contextmanager
def full_memory(made: Cluster, command: str) -> Iterator[None]:
    """A GPU of which no memory is left."""
    device = made.settings["RMBG_DEVICE"]
    with ExitStack() as stack:
        if device == "cpu":
            (made.folder / command).touch()
            stack.callback((made.folder / command).unlink)
        else:
            hog = subprocess.Popen(
                [sys.executable, "-m", "tests.support.gpu_hog", device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            stack.callback(hog.communicate, timeout=60)
            assert hog.stdout is not None
            assert hog.stdout.readline() == b"full\n"
        yield


def await_drained(made: Cluster, name: str, reason: str) -> None:
    """Until the service has drained a worker for its faults."""

    def drained() -> bool:
        return any(reason in each.drained for each in made.registry.workers() if each.name == name)

    made.wait_for(drained, SECONDS, f"{name} drained for {reason}")
    (worker,) = (each for each in made.registry.workers() if each.name == name)
    assert worker.drained == f"{MAX_FAULTS} faults in a row, the last: {reason}"


def gpu_memory(made: Cluster) -> int:
    """Bytes in use, as the workers last said; 0 on a CPU."""
    return max(each.gpu_used for each in made.registry.workers())


def test_a_killed_child_gives_its_memory_back_and_its_job_runs_again(made: Cluster) -> None:
    succeed(made, submit(made, 4))
    before = gpu_memory(made)
    jobs = submit(made, 8)
    made.await_processing()
    made.kill_child("gpu0")
    succeed(made, jobs)
    made.wait_for(lambda: made.usable("gpu0"), SECONDS, "gpu0's return")
    succeed(made, submit(made, 4))
    assert gpu_memory(made) <= 1.1 * before


def test_a_kernel_that_traps_costs_its_process_and_no_job(made: Cluster) -> None:
    (made.folder / TRAP_ONCE).touch()
    pids = {name: made.child(name).pid for name in WORKERS}
    jobs = submit(made, 6, MARKED)
    succeed(made, jobs)
    assert sorted(made.job(each).attempts for each in jobs) == [1] * 5 + [2]
    changed = [name for name in WORKERS if made.child(name).pid != pids[name]]
    assert len(changed) == 1
    assert "worker.leaves" in (made.folder / f"{changed[0]}.log").read_text()
    made.wait_for(lambda: made.usable(*changed), SECONDS, "its return")


def test_a_gpu_whose_context_breaks_for_every_job_is_drained(made: Cluster) -> None:
    (made.folder / TRAP).touch()
    # Each fault costs the start of a process: one worker is enough.
    made.registry.drain(at("gpu1"), "for the test")
    jobs = submit(made, MAX_FAULTS, MARKED)
    await_drained(made, at("gpu0"), "gpu_fault")
    (made.folder / TRAP).unlink()
    made.registry.undrain(at("gpu1"))
    succeed(made, jobs)
    assert {made.job(each).worker for each in jobs} == {at("gpu1")}


def test_a_gpu_without_memory_is_drained_and_its_jobs_run_later(made: Cluster) -> None:
    with full_memory(made, FULL):
        jobs = submit(made, 2 * MAX_FAULTS, MARKED, LARGE)
        for name in WORKERS:
            await_drained(made, at(name), "gpu_out_of_memory")
        assert not any(made.job(each).status.final for each in jobs)
    made.heal()
    succeed(made, jobs)


def test_a_worker_that_finds_no_memory_at_its_start_says_so_and_the_other_goes_on(
    made: Cluster,
) -> None:
    made.end("gpu1")
    succeed(made, submit(made, 2))
    with full_memory(made, FULL_START):
        made.restart("gpu1", wait=False)
        assert made.members["gpu1"].process.wait(SECONDS) == 1
        succeed(made, submit(made, 2))
    log = (made.folder / "gpu1.log").read_text()
    assert f"The memory of {made.settings['RMBG_DEVICE']} is full" in log
    made.heal()
    assert made.usable("gpu1")
