"""Idempotency records: one for each owner and Idempotency-Key."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Final

from redis import Redis

from tasks import redis_keys, scripts
from tasks.redis_client import redis_errors

#: How long a key stands for its task.
IDEMPOTENCY_SECONDS: Final = 24 * 3600
#: How long a key is reserved for a request; if its process dies, the key is free after that.
_RESERVED_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Reservation:
    """The use of a key.

    Attributes:
        payload: digest of the request.
        task_id: the task. Its id is drawn before the task is recorded, so that the task is found
            even if the process died right after recording it.
        done: the task was accepted.
        ours: this call made the reservation.
    """

    payload: str
    task_id: str
    done: bool = False
    ours: bool = False


class IdempotencyStore:
    """The records in Redis; raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def reserve(self, owner: str, key: str, wanted: Reservation) -> Reservation:
        """Reserve a key for a new task, or return its existing reservation."""
        place = redis_keys.idempotency_key(owner, key)
        with redis_errors():
            # The existing entry may expire before it is read: then the key is free.
            while True:
                if self._client.set(place, _write(wanted), nx=True, ex=_RESERVED_SECONDS):
                    return replace(wanted, ours=True)
                found = self._client.get(place)
                if found:
                    return _read(str(found))

    def keep(self, owner: str, key: str, reserved: Reservation) -> None:
        """Keep the key for a task that was accepted."""
        self._compare_and_set(owner, key, reserved, _write(replace(reserved, done=True)))

    def free(self, owner: str, key: str, reserved: Reservation) -> None:
        """Free the key: nothing was accepted."""
        self._compare_and_set(owner, key, reserved, None)

    def _compare_and_set(
        self, owner: str, key: str, reserved: Reservation, value: str | None
    ) -> None:
        with redis_errors():
            scripts.PRIMITIVES.run(
                self._client,
                "compare_and_set",
                key=redis_keys.idempotency_key(owner, key),
                expected=_write(reserved),
                value=value,
                seconds=IDEMPOTENCY_SECONDS,
            )


def payload_digest(payload: object) -> str:
    """Return a digest of a JSON payload, equal for equal payloads."""
    text = json.dumps(payload, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(reservation: Reservation) -> str:
    return json.dumps([reservation.payload, reservation.task_id, reservation.done])


def _read(text: str) -> Reservation:
    payload, task_id, done = json.loads(text)
    return Reservation(payload, task_id, done=done)
