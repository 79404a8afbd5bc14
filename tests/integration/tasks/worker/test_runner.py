"""One job through the runner: what a GPU's faults, a cancel and a lost lease come to."""

import io
import signal
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from PIL import Image
from redis import Redis
from structlog.testing import capture_logs

from inference import pipeline
from inference.decoding_process import DecodingBounds, DecodingProcess
from inference.errors import GpuFaultError, GpuOutOfMemoryError
from inference.options import Options, OutputFormat
from tasks import redis_keys
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import INTERNAL_ERROR, Job, Status, new_task_id
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore, background_key, results_prefix
from tasks.runtime import Runtime
from tasks.worker import runner as module
from tasks.worker.runner import Runner
from tasks.worker_registry import WorkerRegistry
from tests.support.clock import until
from tests.support.hostile_pictures import tall_png
from tests.support.jobs import claim, recorded
from tests.support.models import FakeModel
from tests.support.pictures import picture_file, read_picture
from tests.support.submissions import png
from tests.support.workers import make_runner

WORKER = "gpu0@h"
FULL, BROKEN = GpuOutOfMemoryError("full"), GpuFaultError("illegal address")


@pytest.fixture
def runner(runtime: Runtime) -> Runner:
    """Its process would only be told to leave."""
    return make_runner(runtime, FakeModel(), worker=WORKER, exit_child=Mock())


@pytest.fixture
def task_id(submit: Callable[..., str]) -> str:
    return submit()


def _run(runner: Runner, task_id: str) -> Job:
    """The record after a run."""
    runner.run(task_id)
    return recorded(runner.job_store, task_id)


def test_a_job_runs_to_its_end(runner: Runner, task_id: str) -> None:
    done = _run(runner, task_id)
    assert (done.status, done.attempts, done.worker) == (Status.SUCCEEDED, 1, WORKER)
    assert done.foreground == {"top": 0, "left": 0, "width": 40, "height": 30}
    assert (done.coverage, done.full_width, done.full_height) == (1.0, 40, 30)


@pytest.mark.parametrize(("color", "answers"), [("red", True), ("#ff000000", False)])
def test_a_picture_that_came_cut_out_does_not_count_as_an_answer_of_the_model(
    runner: Runner, submit: Callable[..., str], color: str, *, answers: bool
) -> None:
    task_id = submit(picture_file(Image.new("RGBA", (40, 30), color)))
    assert runner.run(task_id) is answers
    assert recorded(runner.job_store, task_id).status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("errors", "end"),
    [
        ([FULL], (Status.SUCCEEDED, None, 2)),
        ([FULL, FULL], (Status.QUEUED, WORKER, 2)),
        ([BROKEN], (Status.QUEUED, WORKER, 1)),
    ],
)
def test_what_a_gpu_fails_is_tried_here_once_more_or_goes_to_another_one(
    runner: Runner, task_id: str, errors: list[Exception], end: object
) -> None:
    for error in errors:
        runner.model.fail(error)
    job = _run(runner, task_id)
    assert (job.status, job.excluded_worker, runner.model.calls) == end
    assert (job.crashes, job.losses) == (0, job.status is Status.QUEUED)
    assert runner.job_store.due() == [task_id] * job.losses
    assert runner.exit_child.call_count == (BROKEN in errors)


def test_a_broken_gpu_context_ends_the_process_though_redis_is_away(
    runner: Runner, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Mock(side_effect=QueueUnavailableError("away"))
    monkeypatch.setattr(WorkerRegistry, "record_fault", away)
    runner.model.fail(BROKEN)
    with pytest.raises(QueueUnavailableError):
        runner.run(task_id)
    runner.exit_child.assert_called_once()


@pytest.mark.parametrize(
    ("late", "end"),
    [
        ((ObjectStore, "get"), (Status.QUEUED, 0, 1)),
        ((FakeModel, "matte"), (Status.QUEUED, 1, 0)),
        ((pipeline, "encode"), (Status.FAILED, 0, 0)),
        ((JobStore, "finish"), (Status.SUCCEEDED, 0, 0)),
    ],
    ids=["fetching", "inference", "encoding", "publishing"],
)
def test_the_time_limit_is_a_crash_while_the_model_has_the_picture_and_never_spoils_a_result(
    runner: Runner,
    task_id: str,
    monkeypatch: pytest.MonkeyPatch,
    late: tuple[object, str],
    end: object,
) -> None:
    real = getattr(*late)

    def strike(*arguments: object, **options: object) -> object:
        signal.raise_signal(signal.SIGUSR1)
        return real(*arguments, **options)

    monkeypatch.setattr(*late, strike)
    # As Celery does in a child.
    before = signal.signal(signal.SIGUSR1, Mock(side_effect=SoftTimeLimitExceeded))
    job = _run(runner, task_id)
    signal.signal(signal.SIGUSR1, before)
    assert (job.status, job.crashes, job.losses) == end
    assert job.status is not Status.FAILED or job.error.type == "image_too_complex"
    stored = [*runner.object_store.list(results_prefix(task_id))]
    assert stored == [job.result_key] * (job.status is Status.SUCCEEDED)


def test_a_lease_is_renewed_for_as_long_as_the_job_runs_though_redis_is_away_for_a_moment(
    runner: Runner, redis: Redis, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_long() -> None:
        redis.pexpire(redis_keys.lease_key(task_id), 5000)
        until(lambda: redis.pttl(redis_keys.lease_key(task_id)) > 5000)

    renew, away = JobStore.renew, [QueueUnavailableError("away")]

    def renew_later(store: JobStore, task_id: str, *, token: str) -> bool:
        if away:
            raise away.pop()
        return renew(store, task_id, token=token)

    monkeypatch.setattr(JobStore, "renew", renew_later)
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.01)
    runner.model.faults = [run_long]
    assert _run(runner, task_id).status is Status.SUCCEEDED


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_job_that_went_wrong_here_runs_here_if_no_other_worker_can_take_it(
    runner: Runner, redis: Redis, registry: WorkerRegistry, task_id: str, *, elsewhere: bool
) -> None:
    redis.hset(redis_keys.job_key(task_id), "excluded_worker", WORKER)
    for name in (WORKER, "gpu1@h")[: 1 + elsewhere]:
        registry.record_heartbeat(name, queue="gpu.h.0", model=runner.model.name)
        registry.mark_ready(name, 30)
    assert _run(runner, task_id).attempts == (not elsewhere)
    assert bool(redis.zscore(redis_keys.DUE_JOBS, task_id)) is elsewhere


def test_a_worker_that_overslept_its_lease_stores_nothing(
    runner: Runner, redis: Redis, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.model.faults = [lambda: redis.delete(redis_keys.lease_key(task_id))]
    monkeypatch.setattr(ObjectStore, "put", lambda *_, **__: pytest.fail("it stores a result"))
    assert _run(runner, task_id).status is Status.PROCESSING


def test_an_unforeseen_error_shows_only_in_the_log(runner: Runner, task_id: str) -> None:
    runner.model.fail(RuntimeError("secret detail"))
    with capture_logs() as lines:
        error = _run(runner, task_id).error
    assert error == INTERNAL_ERROR
    assert [line["event"] for line in lines if line.get("exc_info")] == ["job.crashed"]


def test_a_picture_that_breaks_the_bounds_of_decoding_fails_once_and_the_next_job_runs(
    runner: Runner, submit: Callable[..., str]
) -> None:
    process = DecodingProcess(DecodingBounds(mebibytes=8, mebibytes_per_megapixel=0))
    runner = replace(runner, decoder=process.decode)
    job = _run(runner, submit(tall_png(4000, 4000)))
    assert (job.status, job.attempts, job.crashes) == (Status.FAILED, 1, 0)
    assert (job.error.type, job.error.retryable) == ("image_too_complex", False)
    assert _run(runner, submit()).status is Status.SUCCEEDED
    process.close()


def test_what_a_dead_run_stored_is_removed_by_the_next(runner: Runner, task_id: str) -> None:
    stale = f"{results_prefix(task_id)}stale.png"
    claim(runner.job_store, task_id, "gpu1@h/1/stale")
    runner.object_store.put(stale, io.BytesIO(b"x"), 1, "image/png")
    runner.job_store.crash(task_id, holder="gpu1@h/1/")
    done = _run(runner, task_id)
    assert [*runner.object_store.list(results_prefix(task_id))] == [done.result_key]


def test_a_background_is_fetched_and_lies_behind(runner: Runner, task_id: str) -> None:
    runner.model.opacity = 0  # a picture without a subject
    job, blue = recorded(runner.job_store, task_id), png("blue", (9, 9))
    behind = {
        "task_id": new_task_id(),
        "options": Options(OutputFormat.AUTO, background_sha256="0" * 64).to_dict(),
        "background_key": background_key(task_id),
    }
    runner.object_store.put(behind["background_key"], io.BytesIO(blue), len(blue), "image/png")
    done = _run(runner, runner.job_store.create(job.evolve(**behind)).job.task_id)
    assert (done.format, done.foreground, done.coverage) == ("jpg", None, 0.0)
    image = read_picture(runner.object_store.get(done.result_key))
    assert image.getpixel((20, 15)) == pytest.approx((0, 0, 255), abs=3)
