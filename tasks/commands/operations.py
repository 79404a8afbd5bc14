"""What the commands work with, connected once per command."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from redis import Redis

from tasks.connection import connect
from tasks.dispatch import Dispatcher
from tasks.errors import QueueUnavailableError
from tasks.fleet import Fleet
from tasks.jobs import Job
from tasks.routing import Router
from tasks.settings import Settings
from tasks.store import JobStore
from tasks.webhooks.store import DeliveryStore


@dataclass(frozen=True, slots=True)
class Operations:
    """The service's parts that an operator's command needs."""

    app: Celery
    client: Redis
    store: JobStore
    fleet: Fleet
    router: Router
    dispatcher: Dispatcher
    deliveries: DeliveryStore
    clock: Callable[[], float] = time.time

    @classmethod
    def connect(cls, celery_context: Any) -> "Operations":  # noqa: ANN401 - celery's `CLIContext`
        """For the application that `celery -A` named; nothing is sent yet."""
        settings = Settings.load()
        client = connect(settings.redis_url.get_secret_value())
        store, fleet = JobStore(client), Fleet(client)
        return cls(
            app=celery_context.app,
            client=client,
            store=store,
            fleet=fleet,
            router=Router(client, fleet, routing=settings.routing),
            dispatcher=Dispatcher(celery_context.app, store),
            deliveries=DeliveryStore(client),
        )

    def send(self, job: Job) -> None:
        """Send a job that was requeued at once; failing that, the reconciler does."""
        try:
            queue = self.router.choose(job.model, job.priority, avoid=job.avoid)
            self.dispatcher.send_again(job.task_id, queue=queue)
        except QueueUnavailableError:
            # The record says that it is due: nothing is lost.
            return
