"""Which task an Idempotency-Key stands for. Keys are their owner's own."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Final

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.scripts import load_scripts

#: How long a key stands for its task.
KEPT_SECONDS: Final = 24 * 3600
#: How long a request may take to be accepted. Should its process die, the key is free after that.
_HELD_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Reservation:
    """A key's use.

    Attributes:
        payload: digest of what was asked for under it.
        task_id: the task, whose id is drawn before there is one: so a task that was recorded is
            found, even if the process that recorded it died before it could say so.
        done: the task was accepted.
        ours: this very call reserved it.
    """

    payload: str
    task_id: str
    done: bool = False
    ours: bool = False


class IdempotencyKeys:
    """The keys in Redis. Raises `QueueUnavailableError` when it is away."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._exchange = load_scripts(client)["exchange"]

    def reserve(self, owner: str, key: str, wanted: Reservation) -> Reservation:
        """Reserve a key for a task to be, or find what it stands for already."""
        place = keys.idempotency_key(owner, key)
        with redis_errors():
            # An entry may run out between the two: then it is ours after all.
            while True:
                if self._client.set(place, _write(wanted), nx=True, ex=_HELD_SECONDS):
                    return replace(wanted, ours=True)
                found = self._client.get(place)
                if found:
                    return _read(str(found))

    def keep(self, owner: str, key: str, reserved: Reservation) -> None:
        """The task was accepted: from now on the key stands for it."""
        self._replace(owner, key, reserved, _write(replace(reserved, done=True)))

    def free(self, owner: str, key: str, reserved: Reservation) -> None:
        """Nothing was accepted: the key may be used again."""
        self._replace(owner, key, reserved, "")

    def _replace(self, owner: str, key: str, reserved: Reservation, new: str) -> None:
        place = keys.idempotency_key(owner, key)
        with redis_errors():
            self._exchange(args=[place, _write(reserved), new, KEPT_SECONDS])


def payload_digest(payload: object) -> str:
    """The same for equal payloads, which are JSON."""
    text = json.dumps(payload, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(reservation: Reservation) -> str:
    return json.dumps([reservation.payload, reservation.task_id, reservation.done])


def _read(text: str) -> Reservation:
    payload, task_id, done = json.loads(text)
    return Reservation(payload, task_id, done=done)
