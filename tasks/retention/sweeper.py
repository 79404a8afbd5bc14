"""Runs both sweeps, in one process at a time."""

from dataclasses import dataclass, replace
from typing import Final

import structlog
from redis import Redis
from redis.exceptions import LockError

from tasks import keys
from tasks.connection import redis_errors
from tasks.errors import QueueUnavailableError, StoreUnavailableError
from tasks.retention.expiry import Expiry
from tasks.retention.orphans import Orphans
from tasks.runtime import Runtime

#: Between two looks at what has expired, and between two looks through the whole bucket.
INTERVAL_SECONDS: Final = 10.0
BUCKET_SECONDS: Final = 600
_LOCK: Final = f"{keys.PREFIX}retention"
_LOOKED: Final = f"{keys.PREFIX}retention:bucket"
_LOCK_SECONDS: Final = 120

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sweeper:
    """What the I/O worker runs every few seconds."""

    client: Redis
    expiry: Expiry
    orphans: Orphans

    @classmethod
    def from_runtime(cls, runtime: Runtime) -> "Sweeper":
        """Build both sweeps from a runtime's parts; nothing is sent before the first pass."""
        store, uploads = runtime.job_store, runtime.uploads
        return cls(
            client=runtime.redis,
            expiry=Expiry(runtime.redis, store, runtime.eraser, uploads, runtime.batches),
            orphans=Orphans(store, uploads.store, runtime.object_store, uploads.large),
        )

    def run_once(self) -> bool:
        """One pass; False when another process is at it, or Redis or the store is away."""
        lock = self.client.lock(_LOCK, timeout=_LOCK_SECONDS, blocking=False)
        try:
            with redis_errors():
                if not lock.acquire():
                    return False
            try:
                self.expiry.run_once()
                if self._bucket_is_due():
                    replace(self.orphans, alive=lock.reacquire).sweep()
            finally:
                with redis_errors():
                    lock.release()
        except (QueueUnavailableError, StoreUnavailableError) as error:
            # A lock that ran out meanwhile is one of these, and no harm: passes may overlap.
            _log.warning("retention.put_off", reason=str(error))
            return False
        except LockError as error:
            _log.warning("retention.lock_lost", reason=str(error))
            return False
        return True

    def _bucket_is_due(self) -> bool:
        with redis_errors():
            return bool(self.client.set(_LOOKED, "1", nx=True, ex=BUCKET_SECONDS))
