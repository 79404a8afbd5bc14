"""The task as Celery calls it: what a run says to others of its worker."""

import io
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import pytest
from celery import Celery
from PIL import Image
from pydantic import SecretStr
from redis import Redis
from structlog.testing import capture_logs

from inference.errors import GpuFaultError, GpuOutOfMemoryError
from tasks import redis_keys
from tasks.jobs import routing
from tasks.jobs.job import Status
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask
from tasks.worker_registry import MAX_FAULTS, Worker, WorkerRegistry
from tests.support.counting import REDIS, STORE, counted_calls
from tests.support.jobs import recorded
from tests.support.models import FakeModel
from tests.support.submissions import PICTURE

WORKER = "gpu0@h"
FULL = GpuOutOfMemoryError("full")
Submit = Callable[..., str]


@pytest.fixture
def task(app: Celery, settings: Settings, registry: WorkerRegistry) -> Iterator[RemovalTask]:
    app.loader.import_default_modules()
    task = app.tasks[routing.REMOVE_TASK]
    task.loader = lambda _settings: FakeModel()
    task.load(Runtime(settings, celery_app=app), WORKER)
    registry.record_heartbeat(WORKER, queue="gpu.h.0")
    yield task
    task.unload()


def test_a_model_is_loaded_though_redis_is_away(task: RemovalTask, settings: Settings) -> None:
    task.unload()
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1")})
    task.load(Runtime(away, celery_app=task.app), WORKER)
    task.unload()
    task.load(Runtime(settings, celery_app=task.app), WORKER)
    assert _worker(task).revision
    assert _worker(task).ready
    task.unload()
    assert not _worker(task).ready


def _worker(task: RemovalTask) -> Worker:
    (worker,) = task.runner.registry.workers()
    return worker


def test_jobs_that_find_no_memory_drain_their_gpu(
    task: RemovalTask, redis: Redis, submit: Submit
) -> None:
    task.runner.model.error = FULL
    for number in range(MAX_FAULTS):
        assert not _worker(task).drained, number
        task(submit())
    drained = _worker(task)
    assert f"{MAX_FAULTS} faults in a row" in drained.drained
    assert (drained.drained_by, drained.running) == ("service", 0)
    task.runner.model.error = None
    left, began = submit(), time.time()
    task(left)
    waiting = recorded(task.runner.job_store, left)
    assert (waiting.status, waiting.attempts) == (Status.QUEUED, 0)
    # After a pause: at once, this very worker might be the one that takes it, again and again.
    assert redis.zscore(redis_keys.DUE_JOBS, left) > began + 0.9


def test_only_a_result_or_a_probe_is_an_answer(
    task: RemovalTask, redis: Redis, submit: Submit
) -> None:
    task.runner.registry.mark_not_ready(WORKER)
    for data, task.runner.model.error in ((b"no picture", None), (PICTURE, FULL), (PICTURE, None)):
        task(submit(data))
        ready = data == PICTURE and task.runner.model.error is None
        assert _worker(task).ready is ready
        # What did not come to its end says nothing of how long a job takes.
        assert redis.hexists(redis_keys.worker_key(WORKER), "seconds") is ready
    task.runner.registry.mark_not_ready(WORKER)
    for task.runner.model.error in (FULL, None):
        task.readiness.probe()
        assert _worker(task).ready is (task.runner.model.error is None)


def test_an_idle_model_is_checked_by_what_that_costs_and_its_answer_is_repeated(
    task: RemovalTask, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    readiness, model, now, used = task.readiness, task.runner.model, [1000.0], [5.0]
    monkeypatch.setattr("tasks.worker.readiness.monotonic", lambda: now[0])
    monkeypatch.setattr("tasks.worker.readiness.process_time", lambda: used[0])
    model.faults = [lambda: used.__setitem__(0, used[0] + 0.6)]  # the first check costs 0.6 s
    readiness.probe()
    assert readiness.probe_seconds == pytest.approx(120)
    calls, until = model.calls, redis.zscore(redis_keys.READY_WORKERS, WORKER)
    redis.flushdb()
    task.runner.registry.update(WORKER, running=1)  # as if Redis was away when the last job ended
    now[0] += 60
    readiness.keep_ready()
    assert (model.calls, _worker(task).running) == (calls, 0)
    # It counts as long as before: 60 s of real time have not passed.
    assert redis.zscore(redis_keys.READY_WORKERS, WORKER) == pytest.approx(until - 60, abs=30)
    now[0] += 60
    readiness.begin_job()
    assert _worker(task).running == 1
    readiness.keep_ready()  # the result of the job will be an answer
    assert model.calls == calls
    readiness.end_job(None)  # the next job may begin at once, and end without the model as well
    assert model.calls == calls + 1


def test_an_answer_says_what_gpu_memory_is_used(
    task: RemovalTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Mock(side_effect=[(3, 9), None, FULL])
    monkeypatch.setattr(task.runner.model, "gpu_memory", memory, raising=False)
    for _ in range(3):
        task.runner.registry.mark_not_ready(WORKER)
        task.readiness.probe()
        shown = _worker(task)
        assert (shown.ready, shown.gpu_used, shown.gpu_total) == (True, 3, 9)


@pytest.mark.parametrize("busy", [False, True])
def test_a_probe_that_finds_a_broken_gpu_context_ends_the_process_after_its_job(
    task: RemovalTask, redis: Redis, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    leave = Mock()
    monkeypatch.setattr(task.readiness, "_exit_child", leave)
    task.runner.model.error = GpuFaultError("illegal address")
    if busy:
        task.readiness.begin_job()
    task.readiness.probe()
    assert leave.call_count == (not busy)
    if busy:
        task.readiness.end_job(0.5)
    leave.assert_called_once()
    # The success of the job that was running forgives the fault before it.
    assert redis.scard(redis_keys.gpu_faults_key(WORKER)) == (not busy)


def test_a_job_costs_no_more_than_its_own_round_trips_requests_and_copies(
    task: RemovalTask, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These counts do not depend on the clock; who raises one knows what each picture pays."""
    counts = counted_calls(monkeypatch)
    monkeypatch.setattr("tasks.worker.runner.monotonic", lambda: 1.0)  # no lease seems old
    file = io.BytesIO()
    Image.effect_noise((1500, 1000), 40).convert("RGB").save(file, "JPEG")
    # The first job of a process also connects, and loads the scripts.
    for data in (PICTURE, file.getvalue()):
        task_id = submit(data)
        counts.clear()
        with capture_logs() as lines:
            tracemalloc.start()
            task(task_id)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    # Begun, drained?, claim, record, lease, finish, answered; more while a stage takes long.
    assert counts[REDIS] <= 7
    assert counts[STORE] <= 2  # the original, the result
    assert len(json.dumps(lines, default=str)) < 1500
    assert recorded(task.runner.job_store, task_id).status is Status.SUCCEEDED
    # At most: the colors, their estimate, the matte as floats (four bytes), alpha, and the cutout.
    assert peak / (1500 * 1000) < 3 + 3 + 4 + 1 + 4 + 2
