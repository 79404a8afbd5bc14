"""`Idempotency-Key`: a repeated request is answered with the task or batch of the first one."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from api.errors import ApiError
from api.inputs import InputFile
from tasks.accounts.api_keys import Owner
from tasks.errors import QueueUnavailableError, UncertainWriteError
from tasks.ids import new_batch_id, new_task_id
from tasks.jobs.batches import Batch, BatchStore
from tasks.jobs.idempotency import IdempotencyStore, Reservation, payload_digest
from tasks.jobs.model import Job
from tasks.jobs.store import JobStore

#: Makes a task of an id.
Accept = Callable[[str], Job]

_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"\Z')

_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")

_HEADER: Final = "Idempotency-Key"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IdempotencyGuard:
    """Accepts each request once.

    Attributes:
        known: the keys that have been used.
        store: the records.
    """

    known: IdempotencyStore
    store: JobStore

    def accept(
        self, owner: Owner, header: str | None, parameters: Mapping[str, Any], accept: Accept
    ) -> tuple[Job, bool]:
        """The task that the key stands for, or a new one.

        Args:
            owner: whose key it is.
            header: `Idempotency-Key` as it came, if it did.
            parameters: the checked payload; files are compared by their bytes.
            accept: makes the new task.

        Returns:
            The task, and whether it is one that was accepted before.

        Raises:
            ApiError: the key is malformed, stands for another payload, for a task that has been
                erased, or for one that is just being accepted.
        """
        if header is None:
            return accept(new_task_id()), False
        key = parse_key(header)
        wanted = Reservation(payload_digest(_comparable(parameters)), new_task_id())
        found = self.known.reserve(owner.id, key, wanted)
        if found.ours:
            return self._make(owner, key, wanted, accept), False
        return self._replay(found, wanted), True

    def _make(self, owner: Owner, key: str, wanted: Reservation, accept: Accept) -> Job:
        try:
            job = accept(wanted.task_id)
        except UncertainWriteError:
            # The key has to lead to the task if there is one: it stays reserved.
            raise
        except BaseException:
            with suppress(QueueUnavailableError):  # then it runs out by itself
                self.known.free(owner.id, key, wanted)
            raise
        try:
            self.known.keep(owner.id, key, wanted)
        except QueueUnavailableError:
            # The task stands, and the key leads to it for as long as it is reserved.
            _log.warning("submit.key_not_kept", **job.log_context())
        return job

    def _replay(self, found: Reservation, wanted: Reservation) -> Job:
        if found.payload != wanted.payload:
            raise ApiError("idempotency_mismatch", fields={_HEADER: "It was used before."})
        job = self.store.get(found.task_id)
        if job is not None:
            return job
        if found.done:
            raise ApiError("gone", f"The task of this {_HEADER} has been erased; use a new key.")
        raise ApiError("idempotency_in_progress", retry_after=1)


def parse_key(header: str) -> str:
    """The key that a header gives, quoted as the draft standard has it, or bare.

    Raises:
        ApiError: it is neither.
    """
    text = header.strip()
    quoted = _QUOTED.match(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not _VISIBLE.match(key) or (not quoted and '"' in key):
        sentence = "Give 1 to 255 visible ASCII characters, bare or in double quotes."
        raise ApiError("invalid_parameter", f"{_HEADER}: {sentence}", fields={_HEADER: sentence})
    return key


def _comparable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: f"sha256:{value.sha256}" if isinstance(value, InputFile) else value
        for name, value in parameters.items()
    }


_BATCH_HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class BatchIdempotencyGuard:
    """Accepts each batch once.

    Attributes:
        known: the keys that have been used.
        batches: the records.
        owner: id of whose keys they are.
        header: `Idempotency-Key` as it came, if it did.
    """

    known: IdempotencyStore
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
            return make(new_batch_id()), False
        key = parse_key(self.header)
        wanted = Reservation(payload_digest(["batch", payload]), new_batch_id())
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
            raise ApiError("idempotency_mismatch", fields={_BATCH_HEADER: "It was used before."})
        if not found.done:
            raise ApiError("idempotency_in_progress", retry_after=1)
        batch = self.batches.get(found.task_id)
        if batch is None:
            raise ApiError(
                "gone", f"The batch of this {_BATCH_HEADER} has been erased; use a new key."
            )
        return batch
