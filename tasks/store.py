"""Jobs' records in Redis: every transition one Lua script, fenced by the lease's token."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from tasks import keys
from tasks.connection import redis_errors
from tasks.errors import (
    IdTakenError,
    QueueFullError,
    ResultKnownError,
    UnreadableRecordError,
)
from tasks.jobs import Job, Priority, Status, to_record, write_error
from tasks.reading import JobReader
from tasks.reasons import EXPIRED, LOST, OVERDUE, POISON
from tasks.records import is_about_one, parse_flat, sent_job
from tasks.scripts import load_scripts

#: How long a lease lasts unless renewed, and how often its owner renews it.
LEASE_SECONDS: Final = 9.0
RENEW_SECONDS: Final = 3.0
#: A job whose worker's child died over it so often is poison.
MAX_CRASHES: Final = 3
#: A job that was lost so often, by nobody's fault, is given up all the same.
MAX_LOSSES: Final = 20
#: Pause before the second loss's new try, doubled for each further one, up to the last.
FIRST_PAUSE_SECONDS: Final = 2
LAST_PAUSE_SECONDS: Final = 60
#: A record outlives its pictures by this, so that "expired" can be told from "unknown".
RECORD_GRACE_SECONDS: Final = 24 * 3600
#: A withdrawn job's record is refused for so long: whatever was on its way has arrived by then.
WITHDRAWN_SECONDS: Final = 3600


class Claim(StrEnum):
    """What came of asking for a job's lease."""

    #: The lease is ours.
    CLAIMED = "claimed"
    #: Another worker is at it, or was: the reconciler sees to that.
    LEASED = "leased"
    #: It is over already.
    FINAL = "final"
    #: There is no such record (expired or erased).
    MISSING = "missing"
    #: It went wrong on this very worker: another one is to try.
    AVOID = "avoid"


@dataclass(frozen=True, slots=True)
class Sending:
    """A queued job's next message, to be numbered.

    Attributes:
        task_id: the job.
        queue: where it goes.
        step: lift the job to this priority; None leaves it where it is.
        repeats: the sending that it is to follow; nothing is sent if there was a later one.
    """

    task_id: str
    queue: str
    step: Priority | None = None
    repeats: int | None = None


class Returned(StrEnum):
    """What became of a job that its worker did not finish."""

    #: It waits again.
    QUEUED = "queued"
    #: It went wrong once too often, and has failed.
    DEAD = "dead"
    #: It was no longer that worker's.
    NONE = "none"


class JobStore(JobReader):
    """The records. Every method raises `QueueUnavailableError` when Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(client, clock=clock)
        self._scripts = load_scripts(client)

    def create(self, job: Job, *, most_pending: int = 0) -> Job:
        """Write a new record; from here on the job is accepted.

        Returns:
            The job with the number of its first message, which is to be sent now; or with the
            leader that it follows, and then no message is.

        Raises:
            QueueFullError: so many jobs are queued or running already (0: any number may).
            IdTakenError: there is a record of that id, or it was withdrawn.
            ResultKnownError: a job of the same cache key has the result already.
        """
        record = _whole(job)
        made = self._run(
            "create",
            job.task_id,
            int(job.expires_at + RECORD_GRACE_SECONDS),
            self._clock(),
            most_pending,
            "" if job.deadline is None else job.deadline,
            *_flat(record),
        )
        if made == "full":
            raise QueueFullError(f"{most_pending} jobs are waiting or running.")
        if made == "exists":
            raise IdTakenError(f"The id {job.task_id} is taken.")
        word, _, other = str(made).partition(":")
        if word == "known":
            raise ResultKnownError(other)
        if word == "joined":
            return job.evolve(leader=other)
        return job.evolve(sending=int(made))

    def create_finished(self, job: Job) -> None:
        """Write the record of a job that is final from its beginning.

        Raises:
            IdTakenError: there is a record of that id, or it was withdrawn.
        """
        expiry = int(job.expires_at + RECORD_GRACE_SECONDS)
        record = _flat(_whole(job))
        if self._run("create_finished", job.task_id, expiry, self._clock(), *record) == "exists":
            raise IdTakenError(f"The id {job.task_id} is taken.")

    def withdraw(self, task_id: str) -> Job | None:
        """Settle whether a job was recorded, where the answer to `create` was lost.

        Returns:
            Its record; or None, and then there will be none, even if that `create` is still on
            its way to Redis.
        """
        return parse_flat(task_id, self._run("withdraw", task_id, WITHDRAWN_SECONDS))

    def note_sendings(self, sendings: Sequence[Sending]) -> list[Job | None]:
        """Number queued jobs' next messages and note their lists, in one round trip.

        Returns:
            The records as they are now, in that order; None for a job that is not queued.
        """
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for each in sendings:
                step = "" if each.step is None else int(each.step)
                number = "" if each.repeats is None else each.repeats
                self._scripts["resend"](args=[each.task_id, each.queue, step, number], client=pipe)
            answers = pipe.execute(raise_on_error=False)
            return [
                sent_job(each.task_id, row) for each, row in zip(sendings, answers, strict=True)
            ]

    def set_aside(self, task_id: str, until: float) -> bool:
        """Look at a queued job that cannot be read again at a unix time; False if it waits not."""
        return bool(self._run("set_aside", task_id, until))

    def claim(self, task_id: str, *, token: str, worker: str, choosy: bool = True) -> Claim:
        """Take the lease, if nobody has it, and count the attempt.

        Args:
            task_id: the job.
            token: names the worker, its process and this run; see `keys.lease_token`.
            worker: as it is to stand in the record.
            choosy: leave a job to others that went wrong on this worker.

        Raises:
            UnreadableRecordError: its attempts cannot be counted; nothing was changed.
        """
        outcome = self._change(
            "claim",
            task_id,
            token,
            worker,
            self._clock(),
            int(LEASE_SECONDS * 1000),
            int(choosy),
            write_error(OVERDUE),
        )
        return Claim(outcome)

    def renew(self, task_id: str, *, token: str) -> bool:
        """Prolong the lease; False when it is no longer ours, or the job was canceled."""
        return bool(self._run("renew", task_id, token, int(LEASE_SECONDS * 1000)))

    def finish(self, task_id: str, *, token: str, status: Status, **changes: object) -> bool:
        """The final write; False when the lease was lost, and nothing was written."""
        record = to_record(changes)
        outcome = self._run("finish", task_id, token, self._clock(), status.value, *_flat(record))
        return bool(outcome == "finished")

    def release(self, task_id: str, *, token: str = "", avoid: str = "") -> Returned:
        """Put a processing job back: a loss, counted.

        Args:
            task_id: the job.
            token: of its lease, or the beginning that names its process; none if no lease is left.
            avoid: the worker that should not try it again, if another can.
        """
        outcome = self._change(
            "release",
            task_id,
            token,
            self._clock(),
            MAX_LOSSES,
            write_error(LOST),
            avoid,
            FIRST_PAUSE_SECONDS,
            LAST_PAUSE_SECONDS,
        )
        return Returned(outcome)

    def postpone(self, task_id: str, *, seconds: float) -> bool:
        """Have a queued job's next message sent in so many seconds; False if it is not queued."""
        return bool(self._run("postpone", task_id, self._clock() + seconds))

    def crash(self, task_id: str, *, holder: str) -> Returned:
        """A worker's process died over the job: its parent says so. Counted.

        Args:
            task_id: the job.
            holder: beginning of the lease's token that names that process.
        """
        outcome = self._change(
            "crash", task_id, holder, self._clock(), MAX_CRASHES, write_error(POISON)
        )
        return Returned(outcome)

    def cancel(self, task_id: str, *, only: Status | None = None) -> str:
        """End a job that is not final: `canceled`, else its state, or `missing`.

        Args:
            task_id: the job.
            only: leave it alone unless it is in this state; purging a queue stops no worker.
        """
        return str(self._change("cancel", task_id, self._clock(), only.value if only else ""))

    def erase(self, task_id: str) -> bool:
        """Remove a record and all that names it; what still runs for it writes in vain.

        Returns:
            False if there was none.
        """
        return bool(self._change("erase", task_id))

    def requeue(self, task_id: str) -> str:
        """Begin a failed or canceled job anew: `requeued`, else its state, or `missing`."""
        return str(self._change("requeue", task_id, self._clock()))

    def fail_overdue(self, task_id: str) -> bool:
        """Fail a queued job whose deadline is over."""
        return bool(self._change("overdue", task_id, self._clock(), write_error(OVERDUE)))

    def expire(self, task_id: str) -> bool:
        """Fail a job that is not final, since its pictures are about to go."""
        return bool(self._change("expire", task_id, self._clock(), write_error(EXPIRED)))

    def forget(self, task_id: str, *, list_name: str = "") -> None:
        """Drop a job whose record has expired from every set that names it."""
        self._run("forget", task_id, list_name)

    def forget_list(self, list_name: str) -> bool:
        """Drop a list that no job waits on; False if one does."""
        return bool(self._run("forget_list", list_name))

    def drop_dead(self, task_id: str) -> bool:
        """Take a job off the dead letters; its record stays failed. False if it was none."""
        with redis_errors():
            return bool(self._client.zrem(keys.DEAD, task_id))

    def _change(self, script: str, task_id: str, *arguments: Any) -> Any:  # noqa: ANN401 - the same
        """One record's transition.

        Raises:
            UnreadableRecordError: what the record holds allows none.
        """
        with redis_errors():
            try:
                return self._scripts[script](args=[task_id, *arguments])
            except ResponseError as error:
                if not is_about_one(error):
                    raise
                raise UnreadableRecordError(task_id, str(error)) from error

    def _run(self, script: str, *arguments: Any) -> Any:  # noqa: ANN401 - what Redis takes and gives
        with redis_errors():
            return self._scripts[script](args=arguments)


def _whole(job: Job) -> dict[str, str]:
    return to_record({name: getattr(job, name) for name in job.__dataclass_fields__})


def _flat(record: dict[str, str]) -> Iterator[str]:
    for name, value in record.items():
        yield name
        yield value
