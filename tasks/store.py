"""Jobs' records in Redis: every transition one Lua script, fenced by the lease's token."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final, cast

from redis import Redis
from redis.exceptions import RedisError

from tasks import keys
from tasks.errors import QueueUnavailableError
from tasks.jobs import Job, Status, from_record, to_record
from tasks.scripts import Scripts

#: How long a lease lasts unless renewed, and how often its owner renews it.
LEASE_SECONDS: Final = 9.0
RENEW_SECONDS: Final = 3.0
#: Runs that may end with the worker's death before a job counts as poison.
MAX_ATTEMPTS: Final = 3
#: A record outlives its pictures by this, so that "expired" can be told from "unknown".
RECORD_GRACE_SECONDS: Final = 24 * 3600

_POISON: Final = json.dumps(
    {
        "type": "poison",
        "message": f"The worker died {MAX_ATTEMPTS} times over this picture; "
        "it is not tried again.",
        "retryable": False,
    }
)


class Claim(StrEnum):
    """What came of asking for a job's lease."""

    #: The lease is ours.
    CLAIMED = "claimed"
    #: Another worker is at it.
    LEASED = "leased"
    #: It is over already.
    FINAL = "final"
    #: There is no such record (expired or erased).
    MISSING = "missing"
    #: It killed its worker too often, and has failed now.
    EXHAUSTED = "exhausted"


def connect(url: str, *, timeout: float = 3.0) -> Redis:
    """A client that fails within `timeout` seconds instead of hanging."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 3.0),
        socket_keepalive=True,
        health_check_interval=10,
    )


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error


class JobStore:
    """The records. Every method raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._scripts = Scripts.load(client)
        self._clock = clock

    def create(self, job: Job) -> None:
        """Write a new record; from here on the job is accepted."""
        record = [part for pair in to_record(_fields(job)).items() for part in pair]
        expire_at = int(job.expires_at + RECORD_GRACE_SECONDS)
        with _redis_errors():
            made = self._scripts.create(
                keys=[keys.job_key(job.task_id), keys.index_key(Status.QUEUED)],
                args=[job.task_id, expire_at, self._clock(), *record],
            )
        if made != "created":
            raise QueueUnavailableError(f"The id {job.task_id} is taken.")

    def get(self, task_id: str) -> Job | None:
        """The record, or None."""
        with _redis_errors():
            record = self._client.hgetall(keys.job_key(task_id))
        return from_record(cast("dict[str, str]", record)) if record else None

    def claim(self, task_id: str, *, token: str, worker: str) -> Claim:
        """Take the lease, if nobody has it, and count the attempt."""
        with _redis_errors():
            outcome = self._scripts.claim(
                keys=[
                    keys.job_key(task_id),
                    keys.lease_key(task_id),
                    keys.index_key(Status.QUEUED),
                    keys.index_key(Status.PROCESSING),
                    keys.index_key(Status.FAILED),
                ],
                args=[
                    task_id,
                    token,
                    worker,
                    self._clock(),
                    int(LEASE_SECONDS * 1000),
                    MAX_ATTEMPTS,
                    _POISON,
                ],
            )
        return Claim(outcome)

    def renew(self, task_id: str, *, token: str) -> bool:
        """Prolong the lease; False when it is no longer ours."""
        with _redis_errors():
            kept = self._scripts.renew(
                keys=[keys.lease_key(task_id)], args=[token, int(LEASE_SECONDS * 1000)]
            )
        return bool(kept)

    def finish(self, task_id: str, *, token: str, status: Status, **changes: object) -> bool:
        """The final write; False when the lease was lost, and nothing was written."""
        now = self._clock()
        record = to_record({**changes, "status": status, "finished_at": now})
        with _redis_errors():
            outcome = self._scripts.finish(
                keys=[
                    keys.job_key(task_id),
                    keys.lease_key(task_id),
                    keys.index_key(Status.PROCESSING),
                    keys.index_key(status),
                ],
                args=[
                    task_id,
                    token,
                    now,
                    keys.done_channel(task_id),
                    *(part for pair in record.items() for part in pair),
                ],
            )
        return bool(outcome == "finished")

    def release(self, task_id: str, *, token: str = "") -> bool:
        """Processing back to queued: by the owner, or, without a token, if no lease is left."""
        with _redis_errors():
            released = self._scripts.release(
                keys=[
                    keys.job_key(task_id),
                    keys.lease_key(task_id),
                    keys.index_key(Status.PROCESSING),
                    keys.index_key(Status.QUEUED),
                ],
                args=[task_id, token, self._clock()],
            )
        return bool(released)

    def ids(self, status: Status, *, entered_before: float | None = None) -> list[str]:
        """The ids of a status, oldest first; or those that entered it before a time."""
        bound = "+inf" if entered_before is None else entered_before
        with _redis_errors():
            found = self._client.zrangebyscore(keys.index_key(status), "-inf", bound)
        return cast("list[str]", found)

    def position(self, task_id: str) -> int:
        """How many jobs wait ahead of this one, in all queues; 0 once it no longer waits."""
        with _redis_errors():
            rank = self._client.zrank(keys.index_key(Status.QUEUED), task_id)
        return cast("int | None", rank) or 0

    def forget(self, task_id: str, status: Status) -> None:
        """Drop an index entry whose record has expired."""
        with _redis_errors():
            self._client.zrem(keys.index_key(status), task_id)

    def ready_workers(self) -> list[str]:
        """The names of the workers whose model answered lately."""
        with _redis_errors():
            found = self._client.zrangebyscore(keys.READY_INDEX, self._clock(), "+inf")
        return cast("list[str]", found)

    def ping(self) -> None:
        """Raise unless Redis answers."""
        with _redis_errors():
            self._client.ping()


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}
