"""What the handlers call: submitting, looking up, waiting. No HTTP in here."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api.gates.redis import connect_gated, queue_gate
from api.gates.store import GatedPool, store_gate
from api.settings import ApiSettings
from api.submission.fetching import from_url
from api.submission.intake import Intake
from api.submission.once import Once
from api.submission.sources import Sources, from_uploads
from api.submission.submission import Submission
from tasks.api_keys import ApiKeys
from tasks.app import create_celery
from tasks.batches.store import BatchStore
from tasks.cache import ResultCache
from tasks.dispatch import Dispatcher
from tasks.erasure import Eraser
from tasks.errors import QueueUnavailableError
from tasks.fleet import Fleet
from tasks.idempotency import IdempotencyKeys
from tasks.jobs import Job
from tasks.net.allow import Allow
from tasks.net.client import Client
from tasks.net.guard import Guard
from tasks.owned import OwnedTasks
from tasks.presentation import result_url
from tasks.rates import RateLimiter
from tasks.routing import Router
from tasks.storage import MinioStore, ObjectStore
from tasks.store import JobStore
from tasks.uploads.service import Uploads
from tasks.watch import Watcher
from tasks.webhooks.store import DeliveryStore

_FIRST_POLL_SECONDS: Final = 0.02
_LAST_POLL_SECONDS: Final = 0.2
#: Longest that a job's message may take while its caller waits; the reconciler sends it otherwise.
SENDING_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Services:
    """The API's dependencies, made once per process."""

    settings: ApiSettings
    store: JobStore
    cache: ResultCache
    objects: ObjectStore
    dispatcher: Dispatcher
    fleet: Fleet
    router: Router
    sources: Sources
    once: Once
    waiting: threading.BoundedSemaphore
    api_keys: ApiKeys
    rates: RateLimiter
    owned: OwnedTasks
    eraser: Eraser
    watcher: Watcher
    uploads: Uploads
    batches: BatchStore
    guard: Guard
    deliveries: DeliveryStore
    clock: Callable[[], float] = time.time

    @classmethod
    def from_settings(cls, settings: ApiSettings) -> "Services":
        """Connect lazily: nothing is sent before the first request."""
        gate, pool = queue_gate(settings), GatedPool(store_gate(settings))
        client = connect_gated(settings.redis_url.get_secret_value(), gate)
        store, fleet = JobStore(client), Fleet(client)
        objects = MinioStore.from_settings(settings, pool)
        uploads = Uploads.from_settings(settings, client, objects, pool)
        return cls(
            settings=settings,
            store=store,
            cache=ResultCache(client, store),
            objects=objects,
            dispatcher=Dispatcher(create_celery(settings, socket_timeout=SENDING_SECONDS), store),
            fleet=fleet,
            router=Router(client, fleet, routing=settings.routing),
            sources=_sources(settings, uploads),
            once=Once(IdempotencyKeys(client), store),
            waiting=threading.BoundedSemaphore(settings.max_waiting),
            api_keys=ApiKeys(client),
            rates=RateLimiter(client),
            owned=OwnedTasks(client, store),
            eraser=Eraser(store, objects),
            watcher=Watcher(client),
            uploads=uploads,
            batches=BatchStore(client),
            guard=Guard(Allow.parse(settings.url_allow)),
            deliveries=DeliveryStore(client),
        )

    def submit(self, submission: Submission, request_id: str, task_id: str | None = None) -> Job:
        """Accept a picture; see `Intake.accept`."""
        return self._intake().accept(submission, request_id, task_id)

    def _intake(self) -> Intake:
        return Intake(
            settings=self.settings,
            store=self.store,
            cache=self.cache,
            objects=self.objects,
            dispatcher=self.dispatcher,
            fleet=self.fleet,
            router=self.router,
            guard=self.guard,
            clock=self.clock,
        )

    def position(self, job: Job) -> int:
        """How many jobs wait ahead; 0 when that cannot be told, which is no reason to fail."""
        try:
            return self.store.position(job.task_id)
        except QueueUnavailableError:
            return 0

    def wait_final(self, task_id: str, seconds: float) -> Job | None:
        """The job once it is final, or as it is when the time is up or too many wait already."""
        if seconds <= 0 or not self.waiting.acquire(blocking=False):
            return self.store.get(task_id)
        try:
            return self._poll(task_id, time.monotonic() + seconds)
        finally:
            self.waiting.release()

    def wait_for(self, job: Job, seconds: float) -> tuple[Job, bool]:
        """A task's state after a wait, and whether there was a place to wait in."""
        if not self.waiting.acquire(blocking=False):
            return job, False
        try:
            return self._poll(job.task_id, time.monotonic() + seconds) or job, True
        finally:
            self.waiting.release()

    def _poll(self, task_id: str, deadline: float) -> Job | None:
        pause = _FIRST_POLL_SECONDS
        while True:
            job = self.store.get(task_id)
            left = deadline - time.monotonic()
            if job is None or job.status.final or left <= 0:
                return job
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LAST_POLL_SECONDS)

    def result_url(self, job: Job, *, download: bool = False) -> str | None:
        """The signed address of the result, if there is one and it has not expired."""
        return result_url(job, self.objects, self.clock(), download=download)


def _sources(settings: ApiSettings, uploads: Uploads) -> Sources:
    fetching = Client(Guard(Allow.parse(settings.url_allow)))
    by_url = {
        name: from_url(name, fetching, settings.max_image_bytes)
        for name in ("image_url", "background_url")
    }
    return Sources.from_settings(settings, upload_id=from_uploads(uploads), **by_url)
