"""The removal task, and the model that its process loads once."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
import urllib3
from billiard import pool
from celery import Task, current_app, shared_task
from celery.signals import (
    setup_logging,
    task_revoked,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
)

from inference.models.base import MattingModel
from tasks.app import probe_seconds, ready_seconds, soft_time_limit
from tasks.errors import QueueUnavailableError, TaskError
from tasks.jobs import routing
from tasks.jobs.routing import task_id_of_message
from tasks.log import configure_logging
from tasks.runtime import Runtime, runtime_of
from tasks.settings import Settings
from tasks.storage.object_store import STALE_RETRIES
from tasks.tracing import configure_tracing, flush_tracing
from tasks.worker.metrics import count_load, share_as_child
from tasks.worker.readiness import Readiness
from tasks.worker.runner import Runner
from tasks.worker.startup import (
    abort_startup,
    load_served_model,
    prepare_parent,
    revision_of,
    serves_a_model,
)

#: Exit status of a process whose GPU context is broken (sysexits.h: EX_SOFTWARE).
_BROKEN_STATUS: Final = 70

#: The store is silent for so long at most before it counts as away.
_STORE_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


class RemovalTask(Task):  # type: ignore[misc] # celery publishes no types
    """Holds what its process has loaded; Celery makes one instance in each process."""

    Request = "tasks.worker.shutdown:RemovalRequest"
    #: Where the model comes from; the fault tests put a faulty one in its place.
    loader: Callable[[Settings], MattingModel]
    runner: Runner | None = None
    readiness: Readiness | None = None

    def load(self, runtime: Runtime, worker: str) -> None:
        """Load and warm up the model, then announce the worker."""
        settings, registry = runtime.settings, runtime.registry
        model = self.loader(settings)
        revision = revision_of(settings)
        lock = threading.Lock()
        self.runner = Runner(
            store=runtime.job_store,
            objects=runtime.object_store,
            fleet=registry,
            model=model,
            model_lock=lock,
            limits=settings.image_limits,
            worker=worker,
            leave=_exit_child,
        )
        registry.note(worker, revision=revision)
        self.readiness = Readiness(
            registry,
            model,
            lock,
            worker,
            seconds=ready_seconds(settings),
            interval=probe_seconds(settings),
            leave=_exit_child,
        )
        self.readiness.start()


def _object_store_pool(settings: Settings) -> urllib3.PoolManager:
    """Connections that give a store up that hangs, twice, well before the soft time limit."""
    seconds = min(_STORE_SECONDS, soft_time_limit(settings) / 4)
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=min(2.0, seconds), read=seconds),
        retries=urllib3.Retry(**STALE_RETRIES),
    )


RemovalTask.loader = staticmethod(load_served_model)


def _exit_child() -> None:
    """End this process at once: a broken GPU context would hang an orderly end."""
    os._exit(_BROKEN_STATUS)


@shared_task(name=routing.REMOVE_TASK, base=RemovalTask, bind=True, max_retries=None)
def remove(self: RemovalTask, task_id: str) -> None:
    """Cut one picture out."""
    if self.runner is None or self.readiness is None:
        raise TaskError("This process has loaded no model: run the task on a model worker.")
    self.readiness.begin()
    began = time.monotonic()
    answered = False
    try:
        answered = self.runner.run(task_id)
    finally:
        self.readiness.end(time.monotonic() - began if answered else None)


@setup_logging.connect
def _configure_logging(**_: Any) -> None:  # noqa: ANN401 - Celery's signal signature
    configure_logging(Settings.load())


@worker_init.connect
def _check_model(sender: Any, **_: Any) -> None:  # noqa: ANN401 - the same
    if serves_a_model(sender.app):
        prepare_parent(sender)
        _mark_former_not_ready(runtime_of(sender.app), sender.hostname)


def _mark_former_not_ready(runtime: Runtime, worker: str) -> None:
    """A worker of that name that was killed may have left word that its model answers."""
    try:
        runtime.registry.withdraw(worker)
    except QueueUnavailableError as error:
        _log.warning("worker.withdraw_failed", reason=str(error))


@worker_process_init.connect
def _load_model(sender: str | None = None, **_: Any) -> None:  # noqa: ANN401 - the same
    settings = Settings.load()
    runtime = Runtime.from_settings(
        settings, celery_app=current_app, s3_pool=_object_store_pool(settings)
    )
    share_as_child()
    configure_tracing("rmbg-worker")
    task = current_app.tasks[routing.REMOVE_TASK]
    _shorten_shutdown()
    began = time.monotonic()
    _record_start(runtime, sender or "worker")
    try:
        task.load(runtime, sender or "worker")
    except Exception as error:  # noqa: BLE001 - Celery would go on without a model
        abort_startup(error, settings.model)
    count_load(settings.model, sender or "worker", time.monotonic() - began)
    _log.info("worker.ready", worker=sender, model=settings.model)


def _record_start(runtime: Runtime, worker: str) -> None:
    """So that `rmbg health worker` sees a process that dies again and again."""
    try:
        runtime.registry.note_start(worker)
    except QueueUnavailableError as error:
        _log.warning("worker.start_not_noted", reason=str(error))


def _shorten_shutdown() -> None:
    """Let a child that ends wait 1 s, not 30, for its parent to have read its last message.

    Billiard's parent sometimes stops reading before that message during a warm shutdown. Nothing
    hangs on it here: the record knows how the job ended.
    """
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10


@worker_process_shutdown.connect
def _mark_not_ready(**_: Any) -> None:  # noqa: ANN401 - the same
    flush_tracing()
    readiness = current_app.tasks[routing.REMOVE_TASK].readiness
    if readiness is not None:
        readiness.withdraw()


@task_revoked.connect
def _cancel_revoked(request: Any = None, **_: Any) -> None:  # noqa: ANN401 - the same
    """Flower or the celery command revoked a message: its job is canceled for good."""
    task_id = task_id_of_message(request.id)
    try:
        outcome = runtime_of(current_app).job_store.cancel(task_id)
    except QueueUnavailableError as error:
        _log.warning("job.revocation_not_noted", task_id=task_id, reason=str(error))
    else:
        _log.info("job.revoked", task_id=task_id, outcome=outcome)
