"""Find queued jobs whose message is missing."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from redis import Redis

from tasks import redis_keys
from tasks.jobs import routing
from tasks.jobs.records import pipeline_each
from tasks.jobs.routing import task_id_of_message
from tasks.redis_client import redis_errors
from tasks.worker_registry import ALIVE_SECONDS

#: Kombu's key of a priority step's list.
_PRIORITY_SEPARATOR: Final = "\x06\x16"
#: Kombu's hash of messages that a worker took and has not acknowledged, and its sorted set of them
#: by the unix time of taking, which the worker's heartbeat refreshes.
_UNACKED: Final = "unacked"
_UNACKED_INDEX: Final = "unacked_index"
#: Not refreshed for so long, a message is in dead hands. Kombu itself waits for the visibility
#: timeout.
_ABANDONED_SECONDS: Final = ALIVE_SECONDS
#: Looked at on one list in one pass.
_MAX_MESSAGES: Final = 500
#: Anybody can put something on a list of Redis: what reading it as a message of ours then raises,
#: and behind how much of that ours are looked for.
_UNKNOWN: Final = (
    AttributeError,
    KeyError,
    IndexError,
    RecursionError,
    TypeError,
    ValueError,
)
_UNKNOWN_MAX: Final = 100


class MissingMessageDetector:
    """Remembers what looked lost at the last pass: a message on its way may look so once.

    Attributes:
        foreign: lists whose oldest message is none of ours, as the last pass found them.
    """

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._suspects: set[str] = set()
        self.foreign: set[str] = set()

    def find(self) -> list[str]:
        """The ids of queued jobs that two passes in a row found without a message."""
        with redis_errors():
            # In this order: a message that a worker takes meanwhile is seen twice, not never.
            overtaken = self._overtaken(
                sorted(cast("set[str]", self._client.smembers(redis_keys.QUEUE_LISTS)))
            )
            missing = overtaken - self._held() if overtaken else set()
        lost = sorted(missing & self._suspects)
        self._suspects = missing - set(lost)
        return lost

    def _overtaken(self, lists: list[str]) -> set[str]:
        """Jobs sent to a list before its oldest message was; all of them if it is empty."""
        oldest = pipeline_each(
            self._client, lists, lambda pipe, name: pipe.lindex(list_key(name), -1)
        )
        heads = dict(zip(lists, oldest, strict=True))
        self.foreign = {name for name, text in heads.items() if text and not _number_in(text)}
        with self._client.pipeline(transaction=False) as pipe:
            for name, text in heads.items():
                bound = self._behind_foreign(name) if name in self.foreign else _bound([text])
                pipe.zrangebyscore(
                    redis_keys.dispatched_key(name), "-inf", bound, start=0, num=_MAX_MESSAGES
                )
            return {task_id for found in pipe.execute() for task_id in found}

    def _behind_foreign(self, name: str) -> str:
        """The bound of a list whose oldest message is none of ours, and might hide what is lost."""
        return _bound(
            pipeline_each(
                self._client,
                [str(-place) for place in range(1, _UNKNOWN_MAX + 1)],
                lambda pipe, place: pipe.lindex(list_key(name), int(place)),
            )
        )

    def _held(self) -> set[str]:
        """Jobs whose message a living worker has taken and not acknowledged."""
        since = self._clock() - _ABANDONED_SECONDS
        tags = cast("list[str]", self._client.zrangebyscore(_UNACKED_INDEX, since, "+inf"))
        taken = pipeline_each(self._client, tags, lambda pipe, tag: pipe.hget(_UNACKED, tag))
        return {task_id_of_message(_id_in(text)) for text in taken}


def _bound(texts: Sequence[Any]) -> str:
    """Which numbers are below that of the first of these messages that is ours, as Redis puts it.

    Args:
        texts: a list's messages, the oldest first; None behind the last one.
    """
    numbers = [number for number in map(_number_in, texts) if number]
    if numbers:
        return f"({numbers[0]}"
    return "+inf" if None in texts else "(0"


def _number_in(text: Any) -> int:  # noqa: ANN401 - what `ask_each` gives
    """The number of a message's sending; 0 of what the project did not send."""
    try:
        return dispatch_seq_of(json.loads(text))
    except _UNKNOWN:
        return 0


def _id_in(text: Any) -> str:  # noqa: ANN401 - what `ask_each` gives
    """The id of a message that a worker has taken; none of what the project did not send."""
    try:
        return message_id(json.loads(text)[0])
    except _UNKNOWN:
        return ""


def list_key(name: str) -> str:
    """Kombu's key of the list that `<queue>|<priority>` names."""
    queue, _, step = name.rpartition("|")
    return queue if step == "0" else f"{queue}{_PRIORITY_SEPARATOR}{step}"


def dispatch_seq_of(message: dict[str, Any]) -> int:
    """The number of a message's sending; 0 for one that the project did not send."""
    return int(message["headers"].get(routing.DISPATCH_SEQ_HEADER, 0))


def message_id(message: dict[str, Any]) -> str:
    """The id that Celery knows a message by."""
    return str(message["headers"].get("id", ""))
