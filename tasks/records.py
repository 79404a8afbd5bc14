"""Reads records that may be damaged: one that is must not hide the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from tasks import keys
from tasks.errors import UnreadableRecordError
from tasks.jobs import Job, from_record

#: What Redis says of a key of another kind; it puts no `ERR` before it.
_WRONG_TYPE: Final = "WRONGTYPE"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Records:
    """What was found under several ids.

    Attributes:
        jobs: those that could be read, in the order of the ids.
        unreadable: by id, why the others that are there could not.
    """

    jobs: list[Job]
    unreadable: dict[str, str]

    def notes(self) -> list[str]:
        """What a person is told of the unreadable ones."""
        return [str(UnreadableRecordError(each, why)) for each, why in self.unreadable.items()]

    def told(self) -> list[Job]:
        """The jobs, when the log has been told of the others."""
        for task_id, reason in self.unreadable.items():
            _log.error("record.unreadable", task_id=task_id, reason=reason)
        return self.jobs


def read_records(client: Redis, task_ids: Sequence[str]) -> Records:
    """The records of those that have one, in one round trip."""
    answers = ask_each(client, task_ids, lambda pipe, each: pipe.hgetall(keys.job_key(each)))
    found = Records([], {})
    for task_id, answer in zip(task_ids, answers, strict=True):
        try:
            job = parse(task_id, answer)
        except UnreadableRecordError as error:
            found.unreadable[task_id] = error.reason
        else:
            found.jobs.extend([job] if job else [])
    return found


def ask_each(
    client: Redis, items: Sequence[str], ask: Callable[[Pipeline, str], object]
) -> list[Any]:
    """An answer for each item, in one round trip; where it is no text, or refused, the exception.

    Raises:
        RedisError: Redis is away, or refuses everything just now.
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
        return [*ask_each(client, items[:middle], ask), *ask_each(client, items[middle:], ask)]
    for answer in answers:
        if isinstance(answer, ResponseError) and not is_about_one(answer):
            raise answer
    return answers


def is_about_one(error: ResponseError) -> bool:
    """Does Redis refuse for what one key holds, and not for its own state, such as full memory?"""
    return type(error) is ResponseError and (
        error.status_code == "ERR" or str(error).startswith(_WRONG_TYPE)
    )


def parse(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - what `ask_each` gives
    """The job of a record as Redis gave it; None of an empty one.

    Raises:
        UnreadableRecordError: it is damaged.
    """
    try:
        if isinstance(answer, Exception):
            raise answer
        return from_record(answer) if answer else None
    except (ResponseError, ValueError) as error:
        raise UnreadableRecordError(task_id, str(error)) from error


def parse_flat(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - what Redis gives
    """The same of a script's answer: fields and values in turn.

    Raises:
        UnreadableRecordError: it is damaged.
        RedisError: Redis refuses everything just now.
    """
    if isinstance(answer, ResponseError) and not is_about_one(answer):
        raise answer
    if isinstance(answer, list):
        answer = dict(zip(answer[::2], answer[1::2], strict=True))
    return parse(task_id, answer)


def sent_job(task_id: str, answer: Any) -> Job | None:  # noqa: ANN401 - the same
    """The job that `resend` has numbered; None of one that is not queued, or is damaged."""
    try:
        return parse_flat(task_id, answer)
    except UnreadableRecordError as error:
        _log.error("record.unreadable", task_id=task_id, reason=error.reason)
    return None
