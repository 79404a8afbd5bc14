"""One job through the runner: what a GPU's faults, a cancel and a lost lease come to."""

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from PIL import Image
from redis import Redis

from inference.errors import GpuFaultError, GpuOutOfMemoryError
from inference.options import Options, OutputFormat
from inference.probe import ImageLimits
from tasks import redis_keys
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import Job, Status, new_task_id
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore, background_key, results_prefix
from tasks.redis_client import connect
from tasks.worker.runner import Runner
from tasks.worker_registry import MAX_FAULTS, WorkerRegistry
from tests.support.jobs import make_job, recorded
from tests.support.models import FakeModel

WORKER = "gpu0@h"


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def model() -> FakeModel:
    return FakeModel("m")


@pytest.fixture
def left() -> list[bool]:
    return []


@pytest.fixture
def runner(
    client: Redis,
    objects: ObjectStore,
    model: FakeModel,
    left: list[bool],
) -> Runner:
    return Runner(
        job_store=JobStore(client),
        object_store=objects,
        registry=WorkerRegistry(client),
        model=model,
        model_lock=threading.Lock(),
        limits=ImageLimits(),
        worker=WORKER,
        exit_child=lambda: left.append(True),
    )


@pytest.fixture
def soft_limit() -> Iterator[None]:
    """What a pool's child does at the soft time limit."""

    def strike(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, strike)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def task_id(runner: Runner) -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(file, "PNG")
    job = make_job(model="m", options=Options().to_dict())
    runner.object_store.put(job.original_key, io.BytesIO(file.getvalue()), file.tell(), "image/png")
    runner.job_store.create(job)
    return job.task_id


def _job(runner: Runner, task_id: str) -> Job:
    return recorded(runner.job_store, task_id)


def test_a_job_runs_to_its_end(runner: Runner, task_id: str) -> None:
    runner.run(task_id)
    done = _job(runner, task_id)
    assert (done.status, done.attempts, done.worker) == (Status.SUCCEEDED, 1, WORKER)
    assert done.result_key is not None
    assert runner.object_store.get(done.result_key)


def test_out_of_memory_once_is_tried_again_here(
    runner: Runner, model: FakeModel, task_id: str
) -> None:
    model.fail(GpuOutOfMemoryError("full"))
    runner.run(task_id)
    assert _job(runner, task_id).status is Status.SUCCEEDED
    assert model.calls == 2


def test_out_of_memory_twice_goes_to_another_gpu(
    runner: Runner, model: FakeModel, task_id: str, left: list[bool]
) -> None:
    model.fail(GpuOutOfMemoryError("full"), times=2)
    runner.run(task_id)
    waiting = _job(runner, task_id)
    assert (waiting.status, waiting.excluded_worker, waiting.losses) == (Status.QUEUED, WORKER, 1)
    assert task_id in runner.job_store.due()
    assert left == []


def test_a_broken_gpu_context_ends_the_process(
    runner: Runner, model: FakeModel, task_id: str, left: list[bool]
) -> None:
    model.fail(GpuFaultError("illegal address"))
    runner.run(task_id)
    waiting = _job(runner, task_id)
    assert (waiting.status, waiting.excluded_worker, waiting.crashes) == (Status.QUEUED, WORKER, 0)
    assert left == [True]


def test_a_broken_gpu_context_ends_the_process_though_redis_is_away(
    runner: Runner, model: FakeModel, task_id: str, left: list[bool]
) -> None:
    class Away(WorkerRegistry):
        def record_fault(self, *_: str) -> bool:
            raise QueueUnavailableError("away")

    model.fail(GpuFaultError("illegal address"))
    with pytest.raises(QueueUnavailableError):
        replace(runner, registry=Away(runner.job_store._client)).run(task_id)
    assert left == [True]


def test_a_gpu_with_faults_in_a_row_is_drained_and_its_jobs_passed_on(
    runner: Runner, client: Redis, model: FakeModel, task_id: str
) -> None:
    for number in range(MAX_FAULTS):
        runner.registry.record_fault(WORKER, f"job{number}", "gpu_fault")
    runner.run(task_id)
    assert model.calls == 0
    assert _job(runner, task_id).status is Status.QUEUED
    # After a pause: at once, this very worker might be the one that takes it, again and again.
    assert client.zscore(redis_keys.DUE_JOBS, task_id) > time.time()


def test_a_job_that_is_canceled_while_it_runs_leaves_nothing(
    runner: Runner, model: FakeModel, task_id: str
) -> None:
    model.faults = [lambda: runner.job_store.cancel(task_id)]
    runner.run(task_id)
    assert _job(runner, task_id).status is Status.CANCELED
    assert list(runner.object_store.list(results_prefix(task_id))) == []


@pytest.mark.usefixtures("soft_limit")
def test_the_time_limit_while_the_result_is_published_changes_nothing(
    runner: Runner, client: Redis, task_id: str
) -> None:
    class Late(JobStore):
        def finish(self, task_id: str, **facts: Any) -> bool:  # noqa: ANN401 - any field's type
            os.kill(os.getpid(), signal.SIGUSR1)
            return super().finish(task_id, **facts)

    replace(runner, job_store=Late(client)).run(task_id)
    done = _job(runner, task_id)
    assert (done.status, done.crashes) == (Status.SUCCEEDED, 0)
    assert list(runner.object_store.list(results_prefix(task_id))) == [done.result_key]


@pytest.mark.usefixtures("soft_limit")
def test_the_time_limit_before_storing_is_a_crash(
    runner: Runner, model: FakeModel, task_id: str
) -> None:
    model.faults = [lambda: os.kill(os.getpid(), signal.SIGUSR1)]
    runner.run(task_id)
    waiting = _job(runner, task_id)
    assert (waiting.status, waiting.crashes) == (Status.QUEUED, 1)
    assert list(runner.object_store.list(results_prefix(task_id))) == []


@pytest.mark.usefixtures("soft_limit")
def test_the_time_limit_while_the_picture_is_fetched_is_nobodys_fault(
    runner: Runner, model: FakeModel, task_id: str
) -> None:
    class Silent(ObjectStore):
        def get(self, key: str) -> bytes:
            signal.raise_signal(signal.SIGUSR1)
            return super().get(key)

    objects = runner.object_store
    assert isinstance(objects, ObjectStore)
    silent = Silent(objects.client, objects.public_client, objects.bucket)
    replace(runner, object_store=silent).run(task_id)
    waiting = _job(runner, task_id)
    assert (waiting.status, waiting.crashes, waiting.losses) == (Status.QUEUED, 0, 1)
    assert model.calls == 0


def test_a_worker_that_overslept_its_lease_stores_nothing(
    runner: Runner,
    model: FakeModel,
    client: Redis,
    task_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model.faults = [lambda: client.delete(redis_keys.lease_key(task_id))]
    stored: list[str] = []

    monkeypatch.setattr(ObjectStore, "put", lambda *_, **__: stored.append(task_id))
    runner.run(task_id)
    assert stored == []
    assert _job(runner, task_id).status is Status.PROCESSING


def test_an_unforeseen_error_fails_the_job_and_tells_nothing_of_it(
    runner: Runner, model: FakeModel, task_id: str
) -> None:
    model.fail(RuntimeError("secret detail"))
    runner.run(task_id)
    error = _job(runner, task_id).error
    assert error is not None
    assert error.type == "internal_error"
    assert "secret" not in error.message
    assert error.retryable


def test_what_a_dead_run_stored_is_removed_by_the_run_that_counts(
    runner: Runner, task_id: str
) -> None:
    stale = f"{results_prefix(task_id)}stale.png"
    runner.job_store.claim(task_id, token="gpu1@h/1/stale", worker="gpu1@h")
    runner.object_store.put(stale, io.BytesIO(b"x"), 1, "image/png")
    runner.job_store.crash(task_id, holder="gpu1@h/1/")
    runner.run(task_id)
    done = _job(runner, task_id)
    assert list(runner.object_store.list(results_prefix(task_id))) == [done.result_key]


def test_a_record_tells_where_the_subject_lies(runner: Runner, task_id: str) -> None:
    runner.run(task_id)
    done = _job(runner, task_id)
    assert done.foreground == {"top": 0, "left": 0, "width": 40, "height": 30}
    assert (done.coverage, done.full_width, done.full_height) == (1.0, 40, 30)


def test_a_background_is_fetched_and_lies_behind(
    runner: Runner, task_id: str, model: FakeModel
) -> None:
    model.opacity = 0  # a picture without a subject
    blue = io.BytesIO()
    Image.new("RGB", (9, 9), "blue").save(blue, "PNG")
    made = new_task_id()
    behind = background_key(made)
    runner.object_store.put(behind, io.BytesIO(blue.getvalue()), blue.tell(), "image/png")
    runner.job_store.create(
        make_job(
            task_id=made,
            model="m",
            original_key=_job(runner, task_id).original_key,
            options=Options(OutputFormat.AUTO, background_sha256="0" * 64).to_dict(),
            background_key=behind,
        )
    )
    runner.run(made)
    done = _job(runner, made)
    assert (done.format, done.foreground, done.coverage) == ("jpg", None, 0.0)
    with Image.open(io.BytesIO(runner.object_store.get(str(done.result_key)))) as image:
        assert image.getpixel((20, 15)) == pytest.approx((0, 0, 255), abs=3)
