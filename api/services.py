"""What the handlers need beside their request, built once per process."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from api.callers import current_caller
from api.circuit_breaker import BreakerPool, BreakerRedis, CircuitBreaker
from api.idempotency import IdempotencyGuard, ReservationRenewer
from api.inputs import ImageInputs
from api.places import Places
from api.settings import ApiSettings
from api.submission import SubmissionService
from api.waiting import TaskWaiter
from tasks.app import create_celery
from tasks.object_store import ObjectStore, authorities
from tasks.runtime import Runtime

#: Downloads that one process sends at once, half of them for one owner. Each holds a connection to
#: the object store, and so a file, for as long as its caller takes to read it.
DOWNLOADS: Final = 256
#: Longest that a job's message may take while its caller waits; the reconciler sends it otherwise.
_SENDING_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Services:
    """The runtime and what only the API needs.

    Attributes:
        settings: the API's own.
        runtime: the parts that the API shares with the workers and the command line.
        waiter: lets requests wait for the end of a task.
        downloads: places of the files that the API sends itself.
        clock: unix seconds.
    """

    settings: ApiSettings
    runtime: Runtime
    waiter: TaskWaiter
    downloads: Places = field(default_factory=lambda: Places(DOWNLOADS))
    clock: Callable[[], float] = time.time

    @classmethod
    def from_settings(cls, settings: ApiSettings) -> "Services":
        """Connect lazily: nothing is sent before the first request."""
        runtime = Runtime(
            settings,
            redis=BreakerRedis.connect(settings.redis_address, CircuitBreaker()),
            celery_app=create_celery(settings, socket_timeout=_SENDING_SECONDS),
            object_store=ObjectStore.from_settings(
                settings, BreakerPool(CircuitBreaker(), current_caller, authorities(settings))
            ),
        )
        return cls(settings, runtime, TaskWaiter(runtime))

    @cached_property
    def inputs(self) -> ImageInputs:
        """Loads the pictures of a submission."""
        runtime = self.runtime
        return ImageInputs(
            self.settings.max_image_bytes, runtime.http_client, runtime.uploads, runtime.quotas
        )

    @cached_property
    def idempotency(self) -> IdempotencyGuard:
        """Accepts each request with an `Idempotency-Key` once."""
        redis, job_store = self.runtime.redis, self.runtime.job_store
        return IdempotencyGuard(redis, ReservationRenewer(redis), job_store.tombstone)

    @cached_property
    def submissions(self) -> SubmissionService:
        """Accepts pictures as jobs."""
        return SubmissionService(self.settings, self.runtime, self.idempotency, self.clock)
