"""Find queued jobs whose message is missing: neither on its list nor with a living worker.

Each message has a dispatch number, which the record holds too. Lists are first in, first out: if a
job's number is below that of its list's oldest message, its own message is not on the list.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

from redis import Redis
from redis.client import Pipeline

from tasks import redis_keys
from tasks.jobs import routing
from tasks.redis_client import pipeline_each, redis_errors
from tasks.worker_registry import ALIVE_SECONDS

#: Between a queue and a priority level in Kombu's key of a list.
_PRIORITY_SEPARATOR: Final = "\x06\x16"
#: Where messages are that a worker of this version holds, and one of an earlier version.
_UNACKED: Final = (
    (redis_keys.UNACKED, redis_keys.UNACKED_INDEX),
    redis_keys.FORMER_UNACKED,
)
#: A message that was not refreshed for this long belongs to a dead worker. Kombu itself waits for
#: the visibility timeout.
_ABANDONED_SECONDS: Final = ALIVE_SECONDS
#: Jobs of one list that are checked in one pass.
_MAX_MESSAGES: Final = 500
#: What reading an unknown message raises, since anyone can write to a list in Redis.
_UNKNOWN_ERRORS: Final = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
#: Unknown messages behind which a known one is looked for.
_UNKNOWN_MAX: Final = 100


class MissingMessageDetector:
    """Reports what two passes in a row found missing: a message in transit is missed once.

    `clock` is the one by which workers hold messages: `WorkerRegistry.now`.
    """

    def __init__(self, client: Redis, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._suspects: set[tuple[str, int]] = set()
        #: Lists whose oldest message is not the project's, as of the last pass.
        self.unknown: set[str] = set()

    def find(self) -> list[str]:
        """Return the ids of queued jobs that two passes in a row found without a message."""
        with redis_errors():
            # In this order, so that a message that a worker takes meanwhile is seen twice.
            overtaken = self._overtaken(
                sorted(cast("set[str]", self._client.smembers(redis_keys.QUEUE_LISTS)))
            )
            held = self._held() if overtaken else set()
        missing = {(task_id, number) for task_id, number in overtaken if number not in held}
        lost = missing & self._suspects
        self._suspects = missing - lost
        return sorted(task_id for task_id, _ in lost)

    def _overtaken(self, lists: list[str]) -> set[tuple[str, int]]:
        """Return the jobs, with their numbers, that come before their list's oldest message.

        If the list is empty, these are all of its jobs.
        """
        oldest = pipeline_each(
            self._client, lists, lambda pipe, name: pipe.lindex(list_key(name), -1)
        )
        heads = dict(zip(lists, oldest, strict=True))
        self.unknown = {name for name, text in heads.items() if text and not _seq_in(text)}
        with self._client.pipeline(transaction=False) as pipe:
            for name, text in heads.items():
                bound = self._bound_behind_unknown(name) if name in self.unknown else _bound([text])
                pipe.zrangebyscore(
                    redis_keys.dispatched_key(name),
                    "-inf",
                    bound,
                    start=0,
                    num=_MAX_MESSAGES,
                    withscores=True,
                )
            found = [each for entries in pipe.execute() for each in entries]
        return {(task_id, int(number)) for task_id, number in found}

    def _bound_behind_unknown(self, name: str) -> str:
        """Return the bound of a list whose oldest message is unknown and may hide missing ones."""
        return _bound(
            pipeline_each(
                self._client,
                [str(-place) for place in range(1, _UNKNOWN_MAX + 1)],
                lambda pipe, place: pipe.lindex(list_key(name), int(place)),
            )
        )

    def _held(self) -> set[int]:
        """Return the numbers of the messages that living workers hold unacknowledged.

        By number and not by name: as the owners take turns, jobs exchange their messages.
        """
        since = self._clock() - _ABANDONED_SECONDS
        held: set[int] = set()
        for messages, index in _UNACKED:
            tags = cast("list[str]", self._client.zrangebyscore(index, since, "+inf"))
            taken = pipeline_each(self._client, tags, partial(_ask_field, messages))
            held |= {_seq_in_unacked(text) for text in taken}
        return held


def _ask_field(key: str, pipe: Pipeline, name: str) -> None:
    pipe.hget(key, name)


def _bound(texts: Sequence[Any]) -> str:
    """Return the upper bound of missing numbers, as an argument of ZRANGEBYSCORE.

    It is the number of the first message that the project sent. `texts` are a list's messages, the
    oldest first, with None after the last one.
    """
    numbers = [number for number in map(_seq_in, texts) if number]
    if numbers:
        return f"({numbers[0]}"
    return "+inf" if None in texts else "(0"


def _seq_in(text: Any) -> int:  # noqa: ANN401 - what Redis gives
    """Return a message's dispatch number; 0 for an unknown message."""
    try:
        return dispatch_seq_of(json.loads(text))
    except _UNKNOWN_ERRORS:
        return 0


def _seq_in_unacked(text: Any) -> int:  # noqa: ANN401 - what Redis gives
    """Return the dispatch number of an unacknowledged message; 0 for an unknown message."""
    try:
        return dispatch_seq_of(json.loads(text)[0])
    except _UNKNOWN_ERRORS:
        return 0


def list_key(name: str) -> str:
    """Return Kombu's key of the list `<queue>|<priority level>`."""
    queue, _, level = name.rpartition("|")
    return queue if level == "0" else f"{queue}{_PRIORITY_SEPARATOR}{level}"


def dispatch_seq_of(message: dict[str, Any]) -> int:
    """Return a message's dispatch number; 0 if the project did not send it."""
    return int(message["headers"].get(routing.DISPATCH_SEQ_HEADER, 0))
