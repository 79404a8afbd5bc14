"""The Celery tasks: `rmbg.remove` runs a job, `rmbg.deliver` attempts a webhook."""

import os
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

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

from tasks.app import probe_seconds, ready_seconds, soft_time_limit
from tasks.errors import QueueUnavailableError, TaskError
from tasks.jobs import routing
from tasks.log import configure_logging
from tasks.metrics import instruments, use_shared_folder
from tasks.object_store import STALE_RETRIES, ObjectStore, authorities
from tasks.redis_client import logged_if_away
from tasks.runtime import Runtime, runtime_of
from tasks.settings import Settings
from tasks.tracing import configure_tracing, flush_tracing
from tasks.webhooks.sending import DeliveryRunner
from tasks.worker.startup import (
    abort_startup,
    check_command,
    keep_freed_memory,
    load_served_model,
    prepare_parent,
    revision_of,
)

if TYPE_CHECKING:
    from inference.decoding_process import DecodingProcess
    from inference.models.base import MattingModel
    from tasks.worker.readiness import Readiness
    from tasks.worker.runner import Runner

#: A silence of the object store beyond this counts as an outage.
_OBJECT_STORE_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


class RemovalTask(Task):  # type: ignore[misc] # celery publishes no types
    """Holds what its child has loaded; Celery makes one instance in each process."""

    Request = "tasks.worker.shutdown:RemovalRequest"
    #: Loads the model; the fault tests replace it.
    loader: Callable[[Settings], "MattingModel"] = staticmethod(load_served_model)
    runner: "Runner | None" = None
    readiness: "Readiness | None" = None
    decoding: "DecodingProcess | None" = None

    def load(self, runtime: Runtime, worker: str) -> None:
        """Load and warm up the model, then mark the worker as ready."""
        # Here, because I/O workers and Flower, whose image has no numpy, import this module too.
        from inference.decoding_process import DecodingProcess  # noqa: PLC0415 - see above
        from tasks.worker.readiness import Readiness  # noqa: PLC0415 - see above
        from tasks.worker.runner import Runner  # noqa: PLC0415 - see above

        settings = runtime.settings
        self.decoding = DecodingProcess()
        self.decoding.start()  # while the model loads
        model = self.loader(settings)
        self.runner = Runner(
            job_store=runtime.job_store,
            object_store=runtime.object_store,
            registry=runtime.registry,
            model=model,
            model_lock=threading.Lock(),
            limits=settings.image_limits,
            worker=worker,
            exit_child=_exit_child,
            decoder=self.decoding.decode,
        )
        self.readiness = Readiness(
            self.runner,
            revision=revision_of(settings),
            seconds=ready_seconds(settings),
            interval=probe_seconds(settings),
        )
        self.readiness.start()

    def unload(self) -> None:
        """Mark the worker as not ready, and end the process that decodes."""
        if self.readiness is not None:
            self.readiness.stop()
        if self.decoding is not None:
            self.decoding.close()


def _exit_child() -> None:
    """Exit at once: an orderly exit would hang on the broken GPU context."""
    os._exit(os.EX_SOFTWARE)


@shared_task(name=routing.REMOVE_TASK, base=RemovalTask, bind=True, max_retries=None)
def remove(self: RemovalTask, task_id: str) -> None:
    """Remove the background of one image: of the named job, or of another whose turn it is."""
    if self.runner is None or self.readiness is None:
        raise TaskError("This worker has no model. Send the task to a model worker's queue.")
    self.readiness.begin_job()
    began = time.monotonic()
    answered = False
    try:
        answered = self.runner.run(task_id, routing.message_of(self.request))
    finally:
        self.readiness.end_job(time.monotonic() - began if answered else None)


@setup_logging.connect
def _configure_logging(**_: Any) -> None:  # noqa: ANN401 - Celery's signal signature
    configure_logging(Settings.load())


@worker_init.connect
def _check_start(sender: Any, **_: Any) -> None:  # noqa: ANN401 - celery's signature
    registry = runtime_of(sender.app).registry
    with logged_if_away("worker.name_not_checked"):
        check_command(sender, runtime_of(sender.app).settings, registry)
    if routing.is_model_worker(sender.app):
        prepare_parent(sender)
        # A killed worker of the same name may have left its readiness.
        with logged_if_away("worker.withdraw_failed"):
            registry.mark_not_ready(sender.hostname)


def _object_store_pool(settings: Settings) -> urllib3.PoolManager:
    """Return connections that time out on a hanging store, twice, before the soft time limit."""
    seconds = min(_OBJECT_STORE_SECONDS, soft_time_limit(settings) / 4)
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=min(2.0, seconds), read=seconds),
        retries=urllib3.Retry(**STALE_RETRIES),
        ca_certs=authorities(settings),
    )


@worker_process_init.connect
def _load_model(sender: str | None = None, **_: Any) -> None:  # noqa: ANN401 - celery's signature
    keep_freed_memory()
    settings = Settings.load()
    runtime = Runtime(
        settings,
        celery_app=current_app,
        object_store=ObjectStore.from_settings(settings, _object_store_pool(settings)),
    )
    use_shared_folder(lambda: "child")
    configure_tracing("rmbg-worker")
    worker, model = sender or "worker", settings.model
    # An ending child waits 1 s, not 30, until its parent has read its last message. During a warm
    # shutdown billiard's parent sometimes stops reading before that message. It is not needed: the
    # record holds the job's outcome.
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10
    began = time.monotonic()
    # `rmbg health worker` notices a child that dies repeatedly.
    with logged_if_away("worker.start_not_noted"):
        runtime.registry.record_start(worker)
    try:
        current_app.tasks[routing.REMOVE_TASK].load(runtime, worker)
    except Exception as error:  # noqa: BLE001 - Celery would go on without a model
        abort_startup(error, model)
    instruments().model_loads.labels(model, worker).inc()
    instruments().model_load_seconds.labels(model, worker).set(time.monotonic() - began)
    _log.info("worker.ready", worker=sender, model=model)


@worker_process_shutdown.connect
def _unload(**_: Any) -> None:  # noqa: ANN401 - celery's signature
    flush_tracing()
    current_app.tasks[routing.REMOVE_TASK].unload()


@task_revoked.connect
def _cancel_revoked(sender: Any, request: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signal signature
    """Cancel the job whose message was revoked by Flower or the celery command."""
    if sender.name != routing.REMOVE_TASK:
        return  # A webhook's delivery is dispatched again, with another message id.
    task_id = routing.task_id_of_message(request.id)
    store = runtime_of(current_app).job_store
    try:
        sent_before = routing.redispatches_of_message(request.id)
        outcome = store.cancel(task_id, redispatches=sent_before)
        # Another job may have got its message when this one had its turn.
        store.postpone(task_id, seconds=0, message=routing.message_of(request))
    except QueueUnavailableError as error:
        _log.warning("job.revocation_not_noted", task_id=task_id, reason=str(error))
    else:
        _log.info("job.revoked", task_id=task_id, outcome=outcome)


class DeliveryTask(Task):  # type: ignore[misc] # celery publishes no types
    """Holds what attempts deliveries, the same for all threads of its process."""

    @cached_property
    def runner(self) -> DeliveryRunner:
        """The delivery runner of the process's runtime."""
        return runtime_of(self.app).delivery_runner


# Acknowledged when it starts: the delivery's claim, and not the message, outlives a dead worker.
@shared_task(
    name=routing.DELIVER_TASK, base=DeliveryTask, bind=True, acks_late=False, max_retries=None
)
def deliver(self: DeliveryTask, delivery_id: str) -> str:
    """Attempt a delivery; Flower shows the outcome as the task's result."""
    try:
        return self.runner.run(delivery_id)
    except QueueUnavailableError as error:
        # The claim lapses, or the message counts as lost: the delivery is due again.
        _log.warning("webhook.not_recorded", webhook_id=delivery_id, reason=str(error))
        return "not_recorded"
