"""Reads job records and their indexes, of which some may be damaged, and waits for ends of jobs."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from tasks import redis_client, redis_keys
from tasks.errors import UnreadableRecordError
from tasks.jobs.job import Job, Status, from_record
from tasks.redis_client import redis_errors

#: The beginning of Redis's error about a key of another type, in place of `ERR`.
_WRONGTYPE: Final = "WRONGTYPE"

#: How soon the watcher's thread ends once nobody waits, and its pause before it connects again.
_WATCH_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """The records found under several ids.

    Attributes:
        jobs: the readable ones, in the order of the ids.
        unreadable: the reason by id for those that are damaged.
    """

    jobs: list[Job]
    unreadable: dict[str, str]

    def notes(self) -> list[str]:
        """Return a message for each unreadable record."""
        return [str(UnreadableRecordError(each, why)) for each, why in self.unreadable.items()]

    def readable(self) -> list[Job]:
        """Return the readable jobs, and log the unreadable ones."""
        for task_id, reason in self.unreadable.items():
            _log.error("record.unreadable", task_id=task_id, reason=reason)
        return self.jobs


def read_records(client: Redis, task_ids: Sequence[str]) -> ReadRecords:
    """Read the records of those ids that have one, in one round trip."""
    answers = pipeline_each(
        client, task_ids, lambda pipe, each: pipe.hgetall(redis_keys.job_key(each))
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


def pipeline_each(
    client: Redis, items: Sequence[str], ask: Callable[[Pipeline, str], object]
) -> list[Any]:
    """Ask Redis once for each item, in one round trip.

    Returns:
        The answers; an exception in place of an answer that is refused or is not UTF-8.

    Raises:
        RedisError: Redis does not answer, or refuses everything, as with full memory.
    """
    if not items:
        return []
    try:
        with client.pipeline(transaction=False) as pipe:
            for item in items:
                ask(pipe, item)
            answers = pipe.execute(raise_on_error=False)
    except UnicodeDecodeError as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return [
            *pipeline_each(client, items[:middle], ask),
            *pipeline_each(client, items[middle:], ask),
        ]
    for answer in answers:
        if isinstance(answer, ResponseError) and not concerns_one_record(answer):
            raise answer
    return answers


def concerns_one_record(error: ResponseError) -> bool:
    """Return whether an error is about one key, not about Redis itself, such as full memory."""
    return type(error) is ResponseError and (
        error.status_code == "ERR" or str(error).startswith(_WRONGTYPE)
    )


def parse_record(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - what `pipeline_each` gives
    """Parse a record as `pipeline_each` returns it; None if it is empty.

    Raises:
        UnreadableRecordError: it is damaged.
    """
    try:
        if isinstance(answer, Exception):
            raise answer
        return from_record(answer) if answer else None
    except (ResponseError, ValueError) as error:
        raise UnreadableRecordError(task_id, str(error)) from error


def parse_flat_record(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - what Redis gives
    """Parse a record as a script returns it: fields and values in turn; None if it is empty.

    Raises:
        UnreadableRecordError: it is damaged.
        RedisError: Redis refuses everything, as with full memory.
    """
    if isinstance(answer, ResponseError) and not concerns_one_record(answer):
        raise answer
    if isinstance(answer, list):
        answer = dict(zip(answer[::2], answer[1::2], strict=True))
    return parse_record(task_id, answer)


def parse_dispatched(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - what Redis gives
    """Parse the answer of `record_dispatch`; None if the job is not queued, or damaged."""
    try:
        return parse_flat_record(task_id, answer)
    except UnreadableRecordError as error:
        _log.error("record.unreadable", task_id=task_id, reason=error.reason)
    return None


class JobReader:
    """Reads records; every method raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def get(self, task_id: str) -> Job | None:
        """Return a job, or None.

        Raises:
            UnreadableRecordError: its record is damaged.
        """
        found = self.read([task_id])
        for each, reason in found.unreadable.items():
            raise UnreadableRecordError(each, reason)
        return next(iter(found.jobs), None)

    def get_many(self, task_ids: Sequence[str]) -> list[Job]:
        """Return the jobs of those ids that have a readable record, in one round trip."""
        return self.read(task_ids).readable()

    def read(self, task_ids: Sequence[str]) -> ReadRecords:
        """Read the records of those ids that have one, with the reasons of unreadable ones."""
        with redis_errors():
            return read_records(self._client, task_ids)

    def recorded(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a record."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(redis_keys.job_key(task_id))
            found = pipe.execute()
        return {task_id for task_id, there in zip(task_ids, found, strict=True) if there}

    def waiting_in(self, queue: str, task_ids: Sequence[str]) -> list[str]:
        """Return those of the ids whose record names a queue, even if the record is damaged."""
        with redis_errors():
            named = pipeline_each(
                self._client,
                task_ids,
                lambda pipe, each: pipe.hget(redis_keys.job_key(each), "queue"),
            )
        return [task_id for task_id, name in zip(task_ids, named, strict=True) if name == queue]

    def lists(self) -> list[str]:
        """Return the lists that messages were dispatched to, as `<queue>|<priority level>`."""
        with redis_errors():
            return sorted(cast("set[str]", self._client.smembers(redis_keys.QUEUE_LISTS)))

    def position(self, job: Job) -> int:
        """Return how many jobs of its queue go before a job; 0 if it is not queued.

        These are the jobs at more urgent priority levels, and the earlier ones at its own. A
        duplicate has the position of its primary.
        """
        with redis_errors():
            return int(redis_client.JOBS.run(self._client, "position", id=job.task_id))

    def ids(self, status: Status) -> list[str]:
        """Return the ids of a status, by the time of entry."""
        return self._members(redis_keys.index_key(status), "+inf")

    def dead(self) -> list[str]:
        """Return the ids of the dead letters, the oldest first."""
        return self._members(redis_keys.DEAD_LETTERS, "+inf")

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
        return task_id not in self.without_lease([task_id])

    def without_lease(self, task_ids: Sequence[str]) -> list[str]:
        """Return those of the ids whose lease no worker holds."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(redis_keys.lease_key(task_id))
            found = pipe.execute()
        return [task_id for task_id, held in zip(task_ids, found, strict=True) if not held]

    def ready_workers(self) -> list[str]:
        """Return the names of the workers that are alive and ready."""
        now = self._clock()
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for index in (redis_keys.READY_WORKERS, redis_keys.ALIVE_WORKERS):
                pipe.zrangebyscore(index, now, "+inf")
            ready, alive = pipe.execute()
        return sorted({*ready} & {*alive})

    def ping(self) -> None:
        """Raise unless Redis answers."""
        with redis_errors():
            self._client.ping()

    def _members(self, key: str, until: float | str, most: int | None = None) -> list[str]:
        start = None if most is None else 0
        with redis_errors():
            found = self._client.zrangebyscore(key, "-inf", until, start=start, num=most)
        return cast("list[str]", found)


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
    def watch(self, task_id: str) -> Iterator[Callable[[float], bool]]:
        """Subscribe for a block of code, which gets a function that waits for the job's end.

        The function takes the seconds to wait, and returns True if the job has ended within them.
        The end of a job that was final before the block is not published again: read the record
        once the block has begun.
        """
        channel, ended = redis_keys.done_channel(task_id), threading.Event()
        with self._lock:
            self._waiting.setdefault(channel, []).append(ended)
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
                self._waiting[channel].remove(ended)
                if not self._waiting[channel]:
                    del self._waiting[channel]

    def _listen(self) -> None:
        while self._go_on():
            try:
                self._read()
            except Exception as error:  # noqa: BLE001 - who waits counts on this thread
                _log.warning("watcher.disconnected", reason=str(error))
                time.sleep(_WATCH_SECONDS)

    def _go_on(self) -> bool:
        with self._lock:
            self._listening = bool(self._waiting)
            return self._listening

    def _read(self) -> None:
        listener = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call] # redis does not annotate it
        with closing(listener):
            listener.psubscribe(redis_keys.done_channel("*"))
            while self._waiting:
                message = listener.get_message(timeout=_WATCH_SECONDS)
                if message is not None:
                    with self._lock:
                        for ended in self._waiting.get(str(message["channel"]), ()):
                            ended.set()
