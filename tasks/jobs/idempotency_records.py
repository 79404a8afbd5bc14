"""Idempotency records: one for each owner and Idempotency-Key."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Final, Self

from redis import Redis

from tasks import redis_client, redis_keys
from tasks.redis_client import redis_errors

#: How long a key stands for its task.
IDEMPOTENCY_SECONDS: Final = 24 * 3600
#: How long a key is reserved for a request; if its process dies, the key is free after that.
_RESERVED_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Reservation:
    """The use of a key.

    Attributes:
        place: the key's entry in Redis.
        payload: digest of the request.
        made_id: of the task or batch. It is drawn before that is recorded, so that a repeated
            request finds it even if the process died right after recording it.
        done: the request was accepted.
    """

    place: str
    payload: str
    made_id: str
    done: bool = False

    @classmethod
    def of(cls, owner: str, key: str, payload: str, made_id: str) -> Self:
        """Build a reservation of an owner's key; equal keys of two owners differ."""
        return cls(redis_keys.idempotency_key(owner, key), payload, made_id)

    def to_keep(self) -> dict[str, str]:
        """Return the arguments with which a Lua command keeps the key for what it records."""
        return {
            "key": self.place,
            "expected": _write(self),
            "value": _write(replace(self, done=True)),
            "seconds": str(IDEMPOTENCY_SECONDS),
        }


class IdempotencyStore:
    """The records in Redis; raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def reserve(self, wanted: Reservation) -> Reservation | None:
        """Reserve a key; return None on success, else the reservation that holds it."""
        with redis_errors():
            found = self._client.set(
                wanted.place, _write(wanted), nx=True, get=True, ex=_RESERVED_SECONDS
            )
        return None if found is None else _read(wanted.place, str(found))

    def keep(self, reserved: Reservation) -> None:
        """Keep the key for the accepted request."""
        self._compare_and_set(**reserved.to_keep())

    def free(self, reserved: Reservation) -> None:
        """Free the key, unless the request was recorded and has kept it."""
        self._compare_and_set(key=reserved.place, expected=_write(reserved))

    def _compare_and_set(self, **arguments: str) -> None:
        with redis_errors():
            redis_client.PRIMITIVES.run(self._client, "compare_and_set", **arguments)


def payload_digest(payload: object) -> str:
    """Return a digest of a JSON payload, equal for equal payloads."""
    text = json.dumps(payload, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(reservation: Reservation) -> str:
    return json.dumps([reservation.payload, reservation.made_id, reservation.done])


def _read(place: str, text: str) -> Reservation:
    payload, made_id, done = json.loads(text)
    return Reservation(place, payload, made_id, done=done)
