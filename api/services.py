"""What the handlers call: submitting, looking up, waiting. No HTTP in here."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api.circuit_breaker import BreakerPool, BreakerRedis, CircuitBreaker
from api.idempotency import IdempotencyGuard, Reservation
from api.inputs import ImageInputs, Submission
from api.settings import ApiSettings
from api.submission import SubmissionService
from tasks.app import create_celery
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import Job, new_task_id
from tasks.jobs.serializers import result_url
from tasks.jobs.store import AcceptedJob
from tasks.runtime import Runtime
from tasks.storage.object_store import ObjectStore

#: How often a waiting request reads the record, beside each time that an end is published.
LOOK_SECONDS: Final = 0.5
#: Longest that a job's message may take while its caller waits; the reconciler sends it otherwise.
SENDING_SECONDS: Final = 3.0
#: Requests of one process that may wait for a task's end at once; gunicorn has more threads.
WAITING_REQUESTS: Final = 64


@dataclass(frozen=True, slots=True)
class Services:
    """The runtime and what only the API needs, built once per process.

    Attributes:
        settings: the API's own.
        runtime: the parts that the API shares with the workers and the command line.
        inputs: loads the images of a submission.
        idempotency: accepts each request with an `Idempotency-Key` once.
        waiting: a place for each request that waits for the end of a job.
        clock: unix seconds.
    """

    settings: ApiSettings
    runtime: Runtime
    inputs: ImageInputs
    idempotency: IdempotencyGuard
    waiting: threading.BoundedSemaphore
    clock: Callable[[], float] = time.time

    @classmethod
    def from_settings(cls, settings: ApiSettings) -> "Services":
        """Connect lazily: nothing is sent before the first request."""
        runtime = Runtime(
            settings,
            redis=BreakerRedis.connect(settings.redis_url.get_secret_value(), CircuitBreaker()),
            celery_app=create_celery(settings, socket_timeout=SENDING_SECONDS),
            object_store=ObjectStore.from_settings(settings, BreakerPool(CircuitBreaker())),
        )
        return cls(
            settings=settings,
            runtime=runtime,
            inputs=ImageInputs(settings.max_image_bytes, runtime.http_client, runtime.uploads),
            idempotency=IdempotencyGuard(runtime.redis),
            waiting=threading.BoundedSemaphore(WAITING_REQUESTS),
        )

    def submit(
        self,
        submission: Submission,
        request_id: str,
        *,
        task_id: str | None = None,
        reservation: Reservation | None = None,
    ) -> AcceptedJob:
        """Accept a picture under an id, or under a fresh one; see `SubmissionService.submit`."""
        service = SubmissionService(self.settings, self.runtime, self.idempotency, self.clock)
        return service.submit(submission, task_id or new_task_id(), request_id, reservation)

    def find_accepted(self, task_id: str) -> AcceptedJob | None:
        """Return a job that an earlier request made; None if it was erased."""
        job = self.runtime.job_store.get(task_id)
        return AcceptedJob(job, self.position(job)) if job else None

    def position(self, job: Job) -> int:
        """Return how many jobs go before this one; 0 if Redis does not answer."""
        try:
            return self.runtime.job_store.position(job)
        except QueueUnavailableError:
            return 0

    def wait_final(self, task_id: str, seconds: float) -> Job | None:
        """Return a job once it is final, or as it is when the time is up or no place is free."""
        if seconds <= 0 or not self.waiting.acquire(blocking=False):
            return self.runtime.job_store.get(task_id)
        try:
            return self._wait(task_id, seconds)
        finally:
            self.waiting.release()

    def wait_for(self, job: Job, seconds: float) -> tuple[Job, bool]:
        """Return a job's state after a wait, and whether there was a place to wait in."""
        if not self.waiting.acquire(blocking=False):
            return job, False
        try:
            return self._wait(job.task_id, seconds) or job, True
        finally:
            self.waiting.release()

    def _wait(self, task_id: str, seconds: float) -> Job | None:
        deadline = time.monotonic() + seconds
        with self.runtime.watcher.watch(task_id) as wait:
            while True:
                job = self.runtime.job_store.get(task_id)
                left = deadline - time.monotonic()
                if job is None or job.status.final or left <= 0:
                    return job
                wait(min(LOOK_SECONDS, left))

    def result_url(self, job: Job, *, download: bool = False) -> str | None:
        """Return the signed URL of the result, if there is one and it has not expired."""
        return result_url(job, self.runtime.object_store, self.clock(), download=download)
