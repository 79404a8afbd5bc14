"""`Idempotency-Key`: a repeated request is answered with the task or batch of the first one."""

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self, TypeVar

import structlog
from redis import Redis

from api.errors import ApiError
from tasks import lua_scripts, redis_keys
from tasks.errors import QueueUnavailableError, UncertainWriteError
from tasks.jobs.job import Job
from tasks.redis_client import redis_errors

HEADER: Final = "Idempotency-Key"
#: How long a key stands for its task.
IDEMPOTENCY_SECONDS: Final = 24 * 3600
#: How long a reservation lasts that is not renewed: the key is free then, if its process died.
RESERVED_SECONDS: Final = 30
#: How often the reservation of a request that goes on, such as one that fetches, is renewed.
_RENEW_SECONDS: Final = 10.0
#: How long a key stays reserved after a request that may have been recorded, or not, while Redis
#: does not answer.
_UNCERTAIN_SECONDS: Final = 120.0
#: How often Redis is asked what became of such a request.
_DECIDE_SECONDS: Final = 1.0
#: A reservation that lapses sooner has missed a renewal: its process died, or cannot reach Redis.
_RENEWED_SECONDS: Final = RESERVED_SECONDS - 1.5 * _RENEW_SECONDS
#: The draft standard's form of a key; a bare one is taken too.
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"\Z')
#: Longest header with a key: each character escaped, and the quotes.
_MAX_HEADER: Final = 2 * 255 + 2
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")

_log = structlog.get_logger(__name__)

#: What a request makes: a task or a batch.
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Reservation:
    """The use of a key: the idempotency record.

    Attributes:
        redis_key: of the record.
        payload: digest of the request.
        made_id: of the task or batch. It is drawn before that is recorded, so that a repeated
            request finds it even if the process died right after recording it.
        done: the request was accepted.
    """

    redis_key: str
    payload: str
    made_id: str
    done: bool = False

    @classmethod
    def read(cls, redis_key: str, text: str) -> Self:
        """Parse the record that Redis holds under a key."""
        payload, made_id, done = json.loads(text)
        return cls(redis_key, payload, made_id, done)

    def write(self) -> str:
        """Return the record as Redis holds it."""
        return json.dumps([self.payload, self.made_id, self.done])

    def to_keep(self) -> dict[str, str]:
        """Return the arguments with which a Lua command keeps the key for what it records."""
        return {
            "key": self.redis_key,
            "expected": self.write(),
            "value": replace(self, done=True).write(),
            "seconds": str(IDEMPOTENCY_SECONDS),
        }


@dataclass(frozen=True, slots=True)
class _Renewal:
    """How a reservation is renewed.

    Attributes:
        until: monotonic time at which that ends.
        decide: finds out what became of its request; raises `QueueUnavailableError` while Redis
            does not answer. None while the request goes on.
    """

    until: float
    decide: Callable[[], None] | None = None


class ReservationRenewer:
    """Renews the reservations of a process's requests, from a thread that runs while there are any.

    A reservation that has lapsed, and that another request may hold, is not taken again.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._running = False
        self._woken = threading.Event()
        self._renewals: dict[Reservation, _Renewal] = {}

    def start(
        self,
        reservation: Reservation,
        seconds: float = math.inf,
        decide: Callable[[], None] | None = None,
    ) -> None:
        """Renew a reservation for `seconds`, unless that is stopped or it is decided before."""
        with self._lock:
            self._renewals[reservation] = _Renewal(time.monotonic() + seconds, decide)
            if decide is not None:
                self._woken.set()
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="reservations", daemon=True).start()

    def stop(self, reservation: Reservation) -> None:
        """Renew a reservation no longer."""
        with self._lock:
            self._renewals.pop(reservation, None)

    def _run(self) -> None:
        outage_logged = False
        while renewals := self._after_a_pause():
            try:
                # The reservations of requests that go on; of those that have ended, it is found out
                # what became of them.
                going_on = [key for key, renewal in renewals.items() if renewal.decide is None]
                self._renew(going_on)
                for reservation, renewal in renewals.items():
                    if renewal.decide is not None:
                        renewal.decide()
                        self.stop(reservation)
                outage_logged = False
            except QueueUnavailableError as error:
                if not outage_logged:
                    _log.warning("idempotency.renewal_failed", reason=str(error))
                outage_logged = True
            except Exception:  # noqa: BLE001 - other requests count on this thread
                _log.exception("idempotency.not_decided")

    def _after_a_pause(self) -> dict[Reservation, _Renewal]:
        """Return the reservations that are to be renewed then; without one the thread ends."""
        undecided = any(each.decide for each in self._renewals.copy().values())
        self._woken.wait(_DECIDE_SECONDS if undecided else _RENEW_SECONDS)
        self._woken.clear()
        with self._lock:
            now = time.monotonic()
            self._renewals = {
                name: each for name, each in self._renewals.items() if each.until > now
            }
            self._running = bool(self._renewals)
            return self._renewals.copy()

    def _renew(self, reservations: Sequence[Reservation]) -> None:
        calls: list[dict[str, lua_scripts.Argument]] = [
            {"key": each.redis_key, "expected": each.write(), "ms": RESERVED_SECONDS * 1000}
            for each in reservations
        ]
        with redis_errors():
            lua_scripts.PRIMITIVES.run_each(self._client, "compare_and_expire", calls)


@dataclass(frozen=True, slots=True)
class IdempotencyGuard:
    """Accepts each request with an `Idempotency-Key` once.

    Every method raises `QueueUnavailableError` if Redis does not answer.
    """

    redis: Redis
    renewer: ReservationRenewer
    #: Returns the job of an id; None after making sure that it will never be recorded.
    tombstone: Callable[[str], Job | None]

    def accept(
        self,
        owner_id: str,
        header: str | None,
        payload: object,
        *,
        former: object = None,
        new_id: Callable[[], str],
        make: Callable[[str, Reservation | None], Made],
        find: Callable[[str], Made | None],
    ) -> tuple[Made, bool]:
        """Make what a request asks for, or find what its first sending made.

        Args:
            owner_id: whose key it is; equal keys of two owners differ.
            header: `Idempotency-Key` as it was sent, if it was.
            payload: what is asked for, as JSON; files by their digests.
            former: the same as earlier versions wrote it, if that differs; their keys last a day.
            new_id: draws an id.
            make: makes it under an id, and keeps the key's reservation when it is recorded.
            find: the earlier one by its id; None if it was erased.

        Returns:
            It, and whether an earlier request made it.

        Raises:
            ApiError: the key is malformed, or was used for another payload, for something that was
                erased, or for a request that is still being accepted.
        """
        if header is None:
            return make(new_id(), None), False
        redis_key = redis_keys.idempotency_key(owner_id, parse_key(header))
        wanted = Reservation(redis_key, _digest(payload), new_id())
        found = self.reserve(wanted)
        if found is None:
            return self._make(wanted, make), False
        if found.payload not in {wanted.payload, _digest(former)}:
            raise ApiError("idempotency_mismatch", fields={HEADER: "It was used before."})
        if not found.done:
            raise ApiError("idempotency_in_progress", retry_after=self._free_after(redis_key))
        earlier = find(found.made_id)
        if earlier is None:
            raise ApiError(
                "gone", f"What was made under this {HEADER} has been erased; use a new key."
            )
        return earlier, True

    def _make(
        self, reservation: Reservation, make: Callable[[str, Reservation | None], Made]
    ) -> Made:
        self.renewer.start(reservation)
        try:
            made = make(reservation.made_id, reservation)
        except UncertainWriteError as error:
            # The key has to lead to the task if there is one: it stays reserved.
            decide = partial(self._decide, reservation, error.task_id)
            self.renewer.start(reservation, _UNCERTAIN_SECONDS, decide)
            raise
        except BaseException:
            self.renewer.stop(reservation)
            with suppress(QueueUnavailableError):  # then the reservation runs out
                self.free(reservation)
            raise
        self.renewer.stop(reservation)
        return made

    def _decide(self, reservation: Reservation, task_id: str) -> None:
        """Keep or free the key of a request of unknown fate.

        Of a batch, one task is in doubt: the batch itself was not made.
        """
        recorded = self.tombstone(task_id) is not None
        if recorded and task_id == reservation.made_id:
            self.keep(reservation)
        else:
            self.free(reservation)

    def _free_after(self, redis_key: str) -> int:
        """Return in how many seconds a key that is reserved can be tried again."""
        with redis_errors():
            left = self.redis.pttl(redis_key) / 1000
        return 1 if left > _RENEWED_SECONDS else max(1, math.ceil(left))

    def is_known(self, owner_id: str, header: str | None) -> bool:
        """Return whether a request was sent under a key, and is accepted or being accepted.

        Raises:
            ApiError: the key is malformed.
        """
        if header is None:
            return False
        with redis_errors():
            return bool(self.redis.exists(redis_keys.idempotency_key(owner_id, parse_key(header))))

    def reserve(self, wanted: Reservation) -> Reservation | None:
        """Reserve a key; return None on success, else the reservation that holds it."""
        with redis_errors():
            found = self.redis.set(
                wanted.redis_key, wanted.write(), nx=True, get=True, ex=RESERVED_SECONDS
            )
        return None if found is None else Reservation.read(wanted.redis_key, str(found))

    def keep(self, reserved: Reservation) -> None:
        """Keep the key for the accepted request."""
        self._compare_and_set(**reserved.to_keep())

    def free(self, reserved: Reservation) -> None:
        """Free the key, unless the request was recorded and has kept it."""
        self._compare_and_set(key=reserved.redis_key, expected=reserved.write())

    def _compare_and_set(self, **arguments: str) -> None:
        with redis_errors():
            lua_scripts.PRIMITIVES.run(self.redis, "compare_and_set", **arguments)


def parse_key(header: str) -> str:
    """Return the key that a header holds: quoted, as the draft standard has it, or bare.

    Raises:
        ApiError: it is neither.
    """
    text = header.strip() if len(header) <= _MAX_HEADER else ""
    quoted = _QUOTED.match(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not _VISIBLE.match(key) or (not quoted and '"' in key):
        sentence = "Give 1 to 255 visible ASCII characters, bare or in double quotes."
        raise ApiError("invalid_parameter", f"{HEADER}: {sentence}", fields={HEADER: sentence})
    return key


def _digest(payload: object) -> str:
    text = json.dumps(payload, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
