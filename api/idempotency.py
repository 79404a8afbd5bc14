"""`Idempotency-Key`: a repeated request is answered with the task or batch of the first one."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from api.errors import ApiError
from tasks.errors import QueueUnavailableError, UncertainWriteError
from tasks.jobs.idempotency_records import IdempotencyStore, Reservation, payload_digest

HEADER: Final = "Idempotency-Key"
#: The draft standard's form of a key; a bare one is taken too.
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"\Z')
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")

#: What a request makes: a task or a batch.
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class IdempotencyGuard:
    """Accepts each request with an `Idempotency-Key` once.

    Attributes:
        keys: the keys that are in use.
    """

    keys: IdempotencyStore

    def accept(
        self,
        owner_id: str,
        header: str | None,
        payload: object,
        *,
        new_id: Callable[[], str],
        make: Callable[[str, Reservation | None], Made],
        find: Callable[[str], Made | None],
    ) -> tuple[Made, bool]:
        """Make what a request asks for, or find what its first sending made.

        Args:
            owner_id: whose key it is.
            header: `Idempotency-Key` as it was sent, if it was.
            payload: what is asked for, as JSON; files by their digests.
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
        wanted = Reservation.of(owner_id, parse_key(header), payload_digest(payload), new_id())
        found = self.keys.reserve(wanted)
        if found is None:
            return self._make(wanted, make), False
        if found.payload != wanted.payload:
            raise ApiError("idempotency_mismatch", fields={HEADER: "It was used before."})
        if not found.done:
            raise ApiError("idempotency_in_progress", retry_after=1)
        earlier = find(found.made_id)
        if earlier is None:
            raise ApiError(
                "gone", f"What was made under this {HEADER} has been erased; use a new key."
            )
        return earlier, True

    def _make(
        self, reservation: Reservation, make: Callable[[str, Reservation | None], Made]
    ) -> Made:
        try:
            return make(reservation.made_id, reservation)
        except UncertainWriteError:
            # The key has to lead to the task if there is one: it stays reserved.
            raise
        except BaseException:
            with suppress(QueueUnavailableError):  # then the reservation runs out
                self.keys.free(reservation)
            raise


def parse_key(header: str) -> str:
    """Return the key that a header holds: quoted, as the draft standard has it, or bare.

    Raises:
        ApiError: it is neither.
    """
    text = header.strip()
    quoted = _QUOTED.match(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not _VISIBLE.match(key) or (not quoted and '"' in key):
        sentence = "Give 1 to 255 visible ASCII characters, bare or in double quotes."
        raise ApiError("invalid_parameter", f"{HEADER}: {sentence}", fields={HEADER: sentence})
    return key
