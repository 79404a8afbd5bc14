"""Idempotency-Key for batches: the same request again is answered with the same batch."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from api.errors import ApiError
from api.submission.once import parse_key
from tasks import keys
from tasks.batches.record import Batch
from tasks.batches.store import BatchStore
from tasks.errors import QueueUnavailableError
from tasks.idempotency import IdempotencyKeys, Reservation, payload_digest

_HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class BatchOnce:
    """Accepts each batch once.

    Attributes:
        known: the keys that have been used.
        batches: the records.
        owner: id of whose keys they are.
        header: `Idempotency-Key` as it came, if it did.
    """

    known: IdempotencyKeys
    batches: BatchStore
    owner: str
    header: str | None

    def accept(self, payload: object, make: Callable[[str], Batch]) -> tuple[Batch, bool]:
        """The batch that the key stands for, or a new one; and whether it is an earlier one.

        Args:
            payload: what was asked for, as JSON; files by their digests.
            make: takes the batch in, under this id.

        Raises:
            ApiError: the key is malformed, or stands for something else.
        """
        if self.header is None:
            return make(keys.new_batch_id()), False
        key = parse_key(self.header)
        wanted = Reservation(payload_digest(["batch", payload]), keys.new_batch_id())
        found = self.known.reserve(self.owner, key, wanted)
        if not found.ours:
            return self._earlier(found, wanted), True
        try:
            batch = make(wanted.task_id)
        except BaseException:
            with suppress(QueueUnavailableError):  # then it runs out by itself
                self.known.free(self.owner, key, wanted)
            raise
        with suppress(QueueUnavailableError):  # it leads to the batch while it is reserved
            self.known.keep(self.owner, key, wanted)
        return batch, False

    def _earlier(self, found: Reservation, wanted: Reservation) -> Batch:
        if found.payload != wanted.payload:
            raise ApiError("idempotency_mismatch", fields={_HEADER: "It was used before."})
        if not found.done:
            raise ApiError("idempotency_in_progress", retry_after=1)
        batch = self.batches.get(found.task_id)
        if batch is None:
            raise ApiError("gone", f"The batch of this {_HEADER} has been erased; use a new key.")
        return batch
