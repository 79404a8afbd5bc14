"""Reads and changes job records: a transition is one Lua command, fenced by the lease's token."""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, cast

import structlog
from redis import Redis
from redis.exceptions import ResponseError

from tasks import lua_scripts, redis_keys
from tasks.errors import IdTakenError, QueueFullError, ResultKnownError, UnreadableRecordError
from tasks.jobs.job import (
    EXPIRED,
    LOST,
    OVERDUE,
    POISON,
    Job,
    Status,
    from_record,
    to_record,
    write_error,
)
from tasks.redis_client import concerns_one_record, pipeline_each, redis_errors

#: Life of a lease that is not renewed.
LEASE_SECONDS: Final = 9.0
_LEASE_MS: Final = int(LEASE_SECONDS * 1000)
#: How often a worker renews its lease.
RENEW_SECONDS: Final = 3.0

#: Crashes of a worker's child over one job, after which the job fails as poison.
MAX_CRASHES: Final = 3
#: Losses after which a job fails.
MAX_LOSSES: Final = 20
#: Pause before the attempt after the second loss, doubled for each further one up to the last.
FIRST_PAUSE_SECONDS: Final = 2
LAST_PAUSE_SECONDS: Final = 60

#: A record is kept for so long after its pictures, so that "expired" differs from "unknown".
RECORD_GRACE_SECONDS: Final = 24 * 3600

#: How long a tombstone refuses a record: a late `create` arrives within that time.
TOMBSTONE_SECONDS: Final = 3600

#: How soon the watcher's thread ends once nobody waits, and its pause before it connects again.
_WATCH_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


def lease_holder(worker: str, pid: int) -> str:
    """Return the beginning of the tokens of all leases that one process of a worker takes."""
    return f"{worker}/{pid}/"


def lease_token(worker: str, pid: int) -> str:
    """Draw the token of a lease: it names the worker, its process, and one run."""
    return f"{lease_holder(worker, pid)}{secrets.token_hex(8)}"


class ClaimOutcome(StrEnum):
    """The outcome of a claim."""

    #: The caller holds the lease.
    CLAIMED = "claimed"
    #: Another worker holds the lease, or held it until it died: the reconciler releases that job.
    LEASED = "leased"
    #: The job has ended.
    FINAL = "final"
    #: There is no such record; it has expired or was erased.
    MISSING = "missing"
    #: This worker failed to run it before: it is left to others.
    EXCLUDED = "excluded"
    #: It is of another model than the worker's, and was handed back to its own model's workers.
    OTHER_MODEL = "other_model"


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A queued job's next message."""

    task_id: str
    queue: str


class Message(NamedTuple):
    """A message that a worker got: the list that it was sent to, and its dispatch number."""

    list_name: str
    number: int


class Turn(NamedTuple):
    """What a claim by a message came to: its outcome, and the job whose turn it was."""

    claim: ClaimOutcome
    task_id: str


class ReleaseOutcome(StrEnum):
    """The outcome of returning a job that its worker did not finish."""

    #: It is queued again.
    QUEUED = "queued"
    #: It reached the limit of losses or crashes, and has failed.
    DEAD = "dead"
    #: The worker no longer held it.
    NONE = "none"


class AcceptedJob(NamedTuple):
    """A job whose record was written, and how many jobs of its queue go before it."""

    job: Job
    position: int


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """The records found under several ids."""

    #: The readable ones, in the order of the ids.
    jobs: list[Job]
    #: The reason by id for those that are damaged.
    unreadable: dict[str, str]

    def notes(self) -> list[str]:
        """Return a message for each unreadable record."""
        return [str(UnreadableRecordError(each, why)) for each, why in self.unreadable.items()]

    def readable(self) -> list[Job]:
        """Return the readable jobs, and log the unreadable ones."""
        for task_id, reason in self.unreadable.items():
            _log.error("record.unreadable", task_id=task_id, reason=reason)
        return self.jobs


def parse_record(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - what Redis gives
    """Parse a record as Redis answers it, or a script: fields and values in turn; None if empty.

    Raises:
        UnreadableRecordError: it is damaged.
        RedisError: Redis refuses everything, as with full memory.
    """
    if isinstance(answer, ResponseError) and not concerns_one_record(answer):
        raise answer
    if isinstance(answer, list):
        answer = dict(zip(answer[::2], answer[1::2], strict=True))
    try:
        if isinstance(answer, Exception):
            raise answer
        return from_record(answer) if answer else None
    except (ResponseError, ValueError) as error:
        raise UnreadableRecordError(task_id, str(error)) from error


class JobStore:
    """Job records. Every method raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def get(self, task_id: str) -> Job | None:
        """Return a job, or None.

        Raises:
            UnreadableRecordError: its record is damaged.
        """
        found = self.read([task_id])
        if found.unreadable:
            raise UnreadableRecordError(task_id, found.unreadable[task_id])
        return found.jobs[0] if found.jobs else None

    def get_many(self, task_ids: Sequence[str]) -> list[Job]:
        """Return the jobs of those ids that have a readable record, and log the other ones."""
        return self.read(task_ids).readable()

    def read(self, task_ids: Sequence[str]) -> ReadRecords:
        """Read the records of those ids that have one, in one round trip."""
        task_ids = list(filter(redis_keys.is_id, task_ids))
        with redis_errors():
            answers = pipeline_each(
                self._client, task_ids, lambda pipe, each: pipe.hgetall(redis_keys.job_key(each))
            )
        found = ReadRecords([], {})
        for task_id, answer in zip(task_ids, answers, strict=True):
            try:
                job = parse_record(task_id, answer)
            except UnreadableRecordError as error:
                found.unreadable[task_id] = error.reason
            else:
                found.jobs.extend([job] if job else [])
        return found

    def recorded(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a record."""
        return set(self._with_key(task_ids, redis_keys.job_key))

    def waiting_in(self, queue: str, task_ids: Sequence[str]) -> list[str]:
        """Return those of the ids whose record names a queue, even if the record is damaged."""
        with redis_errors():
            named = pipeline_each(
                self._client,
                task_ids,
                lambda pipe, id_: pipe.hget(redis_keys.job_key(id_), "queue"),
            )
        return [task_id for task_id, name in zip(task_ids, named, strict=True) if name == queue]

    def lists(self) -> list[str]:
        """Return the lists that messages were dispatched to, as `<queue>|<Celery priority>`."""
        with redis_errors():
            return sorted(cast("set[str]", self._client.smembers(redis_keys.QUEUE_LISTS)))

    def position(self, job: Job) -> int:
        """Return how many jobs of its queue go before a job; 0 if it is not queued.

        These are the more urgent and the earlier ones of its owner, and those that other owners
        have begun by then, as they take turns. A duplicate has the position of its primary.
        """
        return int(self._run("position", job.task_id))

    def raise_aged(self, list_name: str, *, seconds: float, most: int, owners: int) -> list[str]:
        """Raise what waited on a list for too long behind more urgent jobs of its owner.

        Args:
            list_name: of the list.
            seconds: that a job waits at each priority.
            most: raised jobs of an owner that wait at a time.
            owners: that are looked at, by their turn.

        Returns:
            The jobs that were raised by one priority level, and damaged ones that were not.
        """
        with redis_errors():
            found = lua_scripts.JOBS.run(
                self._client,
                "raise_aged",
                list=list_name,
                now=self._clock(),
                seconds=seconds,
                most=most,
                owners=owners,
            )
        return cast("list[str]", found)

    def ids(self, status: Status) -> list[str]:
        """Return the ids of a status, by the time of entry."""
        return self._members(redis_keys.index_key(status), "+inf")

    def dead(self, most: int | None = None) -> list[str]:
        """Return the ids of the dead letters, or of the first `most`, the oldest first."""
        return self._members(redis_keys.DEAD_LETTERS, "+inf", most)

    def count_dead(self) -> int:
        """Return the number of dead letters."""
        with redis_errors():
            return int(self._client.zcard(redis_keys.DEAD_LETTERS))

    def read_newest(self, statuses: Iterable[Status], limit: int) -> ReadRecords:
        """Read the latest jobs of these statuses, with the reasons of unreadable ones."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for status in statuses:
                pipe.zrange(redis_keys.index_key(status), 0, limit - 1, desc=True)
            found = [task_id for ids in pipe.execute() for task_id in ids]
        records = self.read(found)
        jobs = sorted(records.jobs, key=lambda job: job.created_at, reverse=True)
        return ReadRecords(jobs[:limit], records.unreadable)

    def counts(self) -> dict[Status, int]:
        """Return the number of jobs by status."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for status in Status:
                pipe.zcard(redis_keys.index_key(status))
            return dict(zip(Status, pipe.execute(), strict=True))

    def due(self, most: int | None = None) -> list[str]:
        """Return the ids of queued jobs that are to be dispatched now, the first `most` of them."""
        return self._members(redis_keys.DUE_JOBS, self._clock(), most)

    def is_due(self, task_id: str) -> bool:
        """Return whether a queued job is to be dispatched now."""
        with redis_errors():
            score = self._client.zscore(redis_keys.DUE_JOBS, task_id)
        return score is not None and score <= self._clock()

    def overdue(self, most: int | None = None) -> list[str]:
        """Return the ids of jobs whose deadline has passed, the first `most` of them."""
        return self._members(redis_keys.JOB_DEADLINES, self._clock(), most)

    def has_lease(self, task_id: str) -> bool:
        """Return whether a worker holds the lease."""
        return not self.without_lease([task_id])

    def without_lease(self, task_ids: Sequence[str]) -> list[str]:
        """Return those of the ids whose lease no worker holds."""
        leased = set(self._with_key(task_ids, redis_keys.lease_key))
        return [task_id for task_id in task_ids if task_id not in leased]

    def claimed_by(self, holder: str) -> str | None:
        """Return the job that a worker's process runs, by the beginning of its lease tokens."""
        newest_first = self.ids(Status.PROCESSING)[::-1]
        if not newest_first:
            return None
        with redis_errors():
            tokens = self._client.mget(map(redis_keys.lease_key, newest_first))
        leases = zip(newest_first, tokens, strict=True)
        return next((each for each, token in leases if str(token).startswith(holder)), None)

    def create(
        self, job: Job, *, max_pending: int = 0, reservation: Mapping[str, str] | None = None
    ) -> AcceptedJob:
        """Write a new record; from here on the job is accepted.

        Args:
            job: the new job.
            max_pending: limit of jobs that are queued or running; 0: no limit.
            reservation: of the request's Idempotency-Key, kept with the record: `key`, `expected`,
                `value` and `seconds` of a compare-and-set.

        Returns:
            The job with the `dispatch_seq` of its first message, which the caller sends now; or
            with its primary, and then there is no message.

        Raises:
            QueueFullError: the limit is reached.
            IdTakenError: there is a record of that id, or a tombstone.
            ResultKnownError: a job of the same cache key has the result.
        """
        outcome, *value = self._create(
            "create", job, reservation, max_pending=max_pending, deadline=job.deadline
        )
        if outcome == "full":
            raise QueueFullError(
                f"{max_pending} jobs are waiting or running, the most that RMBG_MAX_PENDING allows."
            )
        if outcome == "known":
            raise ResultKnownError(str(value[0]))
        if outcome == "joined":
            return AcceptedJob(job.evolve(primary=str(value[0])), int(value[1]))
        return AcceptedJob(job.evolve(dispatch_seq=int(value[0])), int(value[1]))

    def create_finished(self, job: Job, *, reservation: Mapping[str, str] | None = None) -> None:
        """Write the record of a job that is final from its creation; see `create`.

        Raises:
            IdTakenError: there is a record of that id, or a tombstone.
        """
        self._create("create_finished", job, reservation)

    def _create(
        self,
        command: str,
        job: Job,
        reservation: Mapping[str, str] | None,
        **arguments: lua_scripts.Argument,
    ) -> list[Any]:
        answer: list[Any] = self._run(
            command,
            job.task_id,
            fields=to_record({name: getattr(job, name) for name in job.__dataclass_fields__}),
            expiry=int(job.expires_at + RECORD_GRACE_SECONDS),
            reservation=reservation,
            **arguments,
        )
        if answer[0] == "exists":
            raise IdTakenError(f"The id {job.task_id} is taken.")
        return answer

    def tombstone(self, task_id: str) -> Job | None:
        """Return a job if it was recorded, after the answer to `create` was lost.

        Otherwise a tombstone refuses the `create` if that still reaches Redis.
        """
        return parse_record(task_id, self._run("tombstone", task_id, seconds=TOMBSTONE_SECONDS))

    def record_dispatches(self, dispatches: Sequence[Dispatch]) -> list[Job | None]:
        """Number queued jobs' next messages and note their lists, in one round trip.

        Returns:
            The records after that, in the order of the arguments; None for a job that is not
            queued or whose record is damaged.
        """
        calls: list[dict[str, lua_scripts.Argument]] = [
            {"id": each.task_id, "queue": each.queue} for each in dispatches
        ]
        jobs: list[Job | None] = []
        with redis_errors():
            answers = lua_scripts.JOBS.run_each(self._client, "record_dispatch", calls)
            for each, answer in zip(dispatches, answers, strict=True):
                try:
                    jobs.append(parse_record(each.task_id, answer))
                except UnreadableRecordError as error:
                    _log.error("record.unreadable", task_id=each.task_id, reason=error.reason)
                    jobs.append(None)
        return jobs

    def quarantine(self, task_id: str, until: float) -> bool:
        """Take an unreadable job off its list until a unix time; False if it is not queued."""
        return bool(self._run("quarantine", task_id, due=until))

    def claim(
        self, task_id: str, *, token: str, worker: str, respect_exclusion: bool = True
    ) -> ClaimOutcome:
        """Take the lease of a job if it is free, and count the attempt; see `claim_next`."""
        return self.claim_next(
            task_id, None, token=token, worker=worker, respect_exclusion=respect_exclusion
        ).claim

    def claim_next(
        self,
        task_id: str,
        message: Message | None,
        *,
        token: str,
        worker: str,
        model: str | None = None,
        respect_exclusion: bool = True,
    ) -> Turn:
        """Claim the job whose owner's turn it is, of a message's list or the model's shared one.

        Args:
            task_id: the job that the message names.
            message: stands for a job of its list; None claims the named job.
            token: see `lease_token`.
            worker: its name, for the record.
            model: that the worker has loaded; None takes a job of any model.
            respect_exclusion: refuse a job that this worker failed to run before.

        Raises:
            UnreadableRecordError: the record is damaged; nothing was changed.
        """
        outcome, claimed = self._change(
            "claim",
            task_id,
            **_message_arguments(message),
            token=token,
            worker=worker,
            model=model,
            lease_ms=_LEASE_MS,
            respect_exclusion=respect_exclusion,
            overdue=write_error(OVERDUE),
        )
        return Turn(ClaimOutcome(outcome), str(claimed))

    def renew(self, task_id: str, *, token: str) -> bool:
        """Prolong the lease; False if it was lost, or the job was canceled."""
        return bool(self._run("renew", task_id, token=token, lease_ms=_LEASE_MS))

    def finish(self, task_id: str, *, token: str, status: Status, **changes: object) -> bool:
        """Write the job's end; False if the lease was lost, and nothing was written."""
        outcome = self._run(
            "finish", task_id, token=token, status=status.value, fields=to_record(changes)
        )
        return bool(outcome == "finished")

    def release(
        self, task_id: str, *, token: str = "", excluded_worker: str = ""
    ) -> ReleaseOutcome:
        """Put a processing job back and count a loss.

        Args:
            task_id: the job.
            token: of its lease, or the holder; empty if the lease has run out.
            excluded_worker: the worker that leaves it to others from now on.
        """
        outcome = self._change(
            "release",
            task_id,
            token=token,
            max_losses=MAX_LOSSES,
            lost=write_error(LOST),
            excluded_worker=excluded_worker or None,
            first_pause=FIRST_PAUSE_SECONDS,
            last_pause=LAST_PAUSE_SECONDS,
        )
        return ReleaseOutcome(outcome)

    def postpone(self, task_id: str, *, seconds: float, message: Message | None = None) -> bool:
        """Have a queued job's next message sent after a pause; False if it is not queued.

        With a message it is the job for which that stands, which may be another one than it names.
        """
        due = self._clock() + seconds
        return bool(self._run("postpone", task_id, **_message_arguments(message), due=due))

    def crash(self, task_id: str, *, holder: str) -> ReleaseOutcome:
        """Count a crash of the worker's process, the lease's holder, over the job; put it back."""
        outcome = self._change(
            "crash",
            task_id,
            holder=holder,
            max_crashes=MAX_CRASHES,
            poison=write_error(POISON),
        )
        return ReleaseOutcome(outcome)

    def cancel(
        self, task_id: str, *, only: Status | None = None, redispatches: int | None = None
    ) -> str:
        """Cancel a job that is not final: `canceled`, else its status, or `missing`.

        `only` names the state in which it is canceled: purging a queue stops no worker.
        `redispatches` is that of a message which was revoked: a job that was requeued or dispatched
        again since then is spared.
        """
        status = only.value if only else None
        return str(self._change("cancel", task_id, only=status, redispatches=redispatches))

    def erase(self, task_id: str) -> bool:
        """Remove a record and all that names it; False if there was none."""
        return bool(self._change("erase", task_id))

    def release_pictures(self, task_id: str) -> None:
        """Release what a job's owner was charged for its pictures, which are erased."""
        self._run("release_pictures", task_id)

    def requeue(self, task_id: str) -> str:
        """Queue a failed or canceled job again: `requeued`, else its status, or `missing`."""
        return str(self._change("requeue", task_id))

    def fail_overdue(self, task_id: str) -> bool:
        """Fail a queued job whose deadline has passed."""
        return bool(self._change("fail_overdue", task_id, overdue=write_error(OVERDUE)))

    def expire(self, task_id: str) -> bool:
        """Fail a job that is not final before its pictures are erased."""
        return bool(self._change("expire", task_id, expired=write_error(EXPIRED)))

    def forget(self, task_id: str, *, list_name: str = "") -> None:
        """Drop a job whose record has expired from all sets that name it."""
        self._run("forget", task_id, list=list_name or None)

    def forget_list(self, list_name: str) -> None:
        """Drop a list to which no job is dispatched."""
        with redis_errors():
            lua_scripts.JOBS.run(self._client, "forget_list", list=list_name)

    def drop_dead(self, task_id: str) -> bool:
        """Take a failed job off the dead letters; False if it is none."""
        with redis_errors():
            return bool(self._client.zrem(redis_keys.DEAD_LETTERS, task_id))

    def _with_key(self, task_ids: Sequence[str], key_of: Callable[[str], str]) -> list[str]:
        """Return those of the ids whose key of some kind exists."""
        task_ids = list(filter(redis_keys.is_id, task_ids))
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(key_of(task_id))
            found = pipe.execute()
        return [task_id for task_id, there in zip(task_ids, found, strict=True) if there]

    def _members(self, key: str, until: float | str, most: int | None = None) -> list[str]:
        start = None if most is None else 0
        with redis_errors():
            found = self._client.zrangebyscore(key, "-inf", until, start=start, num=most)
        return cast("list[str]", found)

    def _change(self, command: str, task_id: str, **arguments: lua_scripts.Argument) -> Any:  # noqa: ANN401 - what Redis gives
        """Run a command that changes one record.

        Raises:
            UnreadableRecordError: the record is damaged; nothing was changed.
        """
        with redis_errors():
            try:
                return lua_scripts.JOBS.run(
                    self._client, command, id=task_id, now=self._clock(), **arguments
                )
            except ResponseError as error:
                if not concerns_one_record(error):
                    raise
                raise UnreadableRecordError(task_id, str(error)) from error

    def _run(self, command: str, task_id: str, **arguments: lua_scripts.Argument) -> Any:  # noqa: ANN401 - what Redis gives
        with redis_errors():
            return lua_scripts.JOBS.run(
                self._client, command, id=task_id, now=self._clock(), **arguments
            )


def _message_arguments(message: Message | None) -> dict[str, lua_scripts.Argument]:
    return {} if message is None else {"list": message.list_name, "number": message.number}


class JobWatcher:
    """Tells waiting threads of the ends of jobs, which the Lua scripts publish.

    All threads of a process share one subscription, read by a thread while anybody waits. An end
    may go unnoticed while that thread connects: who waits reads the record now and then.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._waiting: dict[str, list[threading.Event]] = {}
        self._listening = False

    @contextmanager
    def watch(self, *task_ids: str) -> Iterator[Callable[[float], bool]]:
        """Subscribe for a block of code, which gets a function that waits for the jobs' ends.

        The function takes the seconds to wait, and returns True if a job has ended within them.
        The end of a job that was final before the block is not published again: read the record
        once the block has begun. The id `*` stands for all jobs and batches.
        """
        ended = threading.Event()
        with self._lock:
            for task_id in task_ids:
                self._waiting.setdefault(task_id, []).append(ended)
            if not self._listening:
                self._listening = True
                threading.Thread(target=self._listen, name="job-watcher", daemon=True).start()

        def wait(seconds: float) -> bool:
            found = ended.wait(seconds)
            ended.clear()
            return found

        try:
            yield wait
        finally:
            with self._lock:
                for task_id in task_ids:
                    self._waiting[task_id].remove(ended)
                    if not self._waiting[task_id]:
                        del self._waiting[task_id]

    def _listen(self) -> None:
        while True:
            with self._lock:
                self._listening = bool(self._waiting)
                if not self._listening:
                    return
            try:
                self._read()
            except Exception as error:  # noqa: BLE001 - who waits counts on this thread
                _log.warning("watcher.disconnected", reason=str(error))
                time.sleep(_WATCH_SECONDS)

    def _read(self) -> None:
        listener = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call] # redis does not annotate it
        with closing(listener):
            listener.psubscribe(redis_keys.done_channel("*"))
            while self._waiting:
                message = listener.get_message(timeout=_WATCH_SECONDS)
                if message is not None:
                    self._wake(str(message["channel"]).rpartition(":")[2])

    def _wake(self, task_id: str) -> None:
        """Wake the threads that wait for a job or batch, and those that wait for any."""
        with self._lock:
            for ended in (*self._waiting.get(task_id, ()), *self._waiting.get("*", ())):
                ended.set()
