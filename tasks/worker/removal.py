"""The removal task, and the model that its process loads once."""

import threading
from typing import Any

import structlog
from celery import Task, current_app, shared_task
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
)

from tasks import names
from tasks.errors import TaskError
from tasks.log import configure_logging
from tasks.settings import Settings
from tasks.storage import MinioStore
from tasks.store import JobStore, connect
from tasks.worker.readiness import Readiness
from tasks.worker.runner import Runner
from tasks.worker.startup import give_up, load_served_model, prepare_parent, serves_a_model

_log = structlog.get_logger(__name__)


class RemovalTask(Task):  # type: ignore[misc] # celery publishes no types
    """Holds what its process has loaded; Celery makes one instance in each process."""

    runner: Runner | None = None
    readiness: Readiness | None = None

    def load(self, settings: Settings, worker: str) -> None:
        """Load and warm up the model, then announce the worker."""
        model = load_served_model(settings)
        client = connect(settings.redis_url.get_secret_value())
        lock = threading.Lock()
        self.runner = Runner(
            store=JobStore(client),
            objects=MinioStore.from_settings(settings),
            model=model,
            model_lock=lock,
            limits=settings.image_limits,
            worker=worker,
        )
        self.readiness = Readiness(client, model, lock, worker)
        self.readiness.start()


@shared_task(name=names.REMOVE_TASK, base=RemovalTask, bind=True, max_retries=None)
def remove(self: RemovalTask, task_id: str) -> None:
    """Cut one picture out."""
    if self.runner is None or self.readiness is None:
        raise TaskError("This process has loaded no model: run the task on a model worker.")
    self.runner.run(task_id)
    self.readiness.announce()


@setup_logging.connect
def _configure_logging(**_: Any) -> None:  # noqa: ANN401 - Celery's signal signature
    configure_logging(Settings.load())


@worker_init.connect
def _check_model(sender: Any, **_: Any) -> None:  # noqa: ANN401 - the same
    if serves_a_model(sender.app):
        prepare_parent(sender)


@worker_process_init.connect
def _load_model(sender: str | None = None, **_: Any) -> None:  # noqa: ANN401 - the same
    settings = Settings.load()
    task = current_app.tasks[names.REMOVE_TASK]
    try:
        task.load(settings, sender or "worker")
    except Exception as error:  # noqa: BLE001 - Celery would go on without a model
        give_up(error, settings.model)
    _log.info("worker.ready", worker=sender, model=settings.model)


@worker_process_shutdown.connect
def _withdraw(**_: Any) -> None:  # noqa: ANN401 - the same
    readiness = current_app.tasks[names.REMOVE_TASK].readiness
    if readiness is not None:
        readiness.withdraw()
