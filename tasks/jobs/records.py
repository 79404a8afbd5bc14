"""Read job records from Redis, and tell readable ones from corrupt ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from tasks import redis_keys
from tasks.errors import UnreadableRecordError
from tasks.jobs.model import Job, from_record

#: The beginning of Redis's error about a key of another type, in place of `ERR`.
_WRONGTYPE: Final = "WRONGTYPE"

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


def parse_record(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - what `ask_each` gives
    """Parse a record as `ask_each` returns it; None if it is empty.

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
