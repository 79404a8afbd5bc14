"""Finds queued jobs whose message is nowhere: not on its list, nor in a living worker's hands.

Each sending has a number, in the message and in the record. Lists are first in, first out, so a
job whose number is below that of its list's oldest message has no message on that list.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final, cast

from redis import Redis

from tasks import keys, names
from tasks.dispatch import job_id_of
from tasks.fleet import ALIVE_SECONDS
from tasks.store import redis_errors

#: Kombu's key of a priority step's list.
_STEP: Final = "\x06\x16"
#: Kombu's hash of messages that a worker took and has not acknowledged, and its sorted set of them
#: by the unix time of taking, which the worker's heartbeat refreshes.
_UNACKED: Final = "unacked"
_UNACKED_INDEX: Final = "unacked_index"
#: Not refreshed for so long, a message is in dead hands. Kombu itself waits for the visibility
#: timeout.
_ABANDONED_SECONDS: Final = ALIVE_SECONDS
#: Looked at on one list in one pass.
_MOST: Final = 500


class LostMessages:
    """Remembers what looked lost at the last pass: a message on its way may look so once."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._suspects: set[str] = set()

    def find(self) -> list[str]:
        """The ids of queued jobs that two passes in a row found without a message."""
        with redis_errors():
            # In this order: a message that a worker takes meanwhile is seen twice, not never.
            overtaken = self._overtaken(sorted(cast("set[str]", self._client.smembers(keys.LISTS))))
            missing = overtaken - self._held() if overtaken else set()
        lost = sorted(missing & self._suspects)
        self._suspects = missing - set(lost)
        return lost

    def _overtaken(self, names: list[str]) -> set[str]:
        """Jobs sent to a list before its oldest message was; all of them if it is empty."""
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.lindex(list_key(name), -1)
            for name, oldest in zip(names, pipe.execute(), strict=True):
                bound = f"({sending_of(json.loads(oldest))}" if oldest else "+inf"
                pipe.zrangebyscore(keys.sent_key(name), "-inf", bound, start=0, num=_MOST)
            return {task_id for found in pipe.execute() for task_id in found}

    def _held(self) -> set[str]:
        """Jobs whose message a living worker has taken and not acknowledged."""
        since = self._clock() - _ABANDONED_SECONDS
        tags = cast("list[str]", self._client.zrangebyscore(_UNACKED_INDEX, since, "+inf"))
        messages = cast("list[str | None]", self._client.hmget(_UNACKED, tags)) if tags else []
        return {job_id_of(message_id(json.loads(text)[0])) for text in messages if text}


def list_key(name: str) -> str:
    """Kombu's key of the list that `<queue>|<priority>` names."""
    queue, _, step = name.rpartition("|")
    return queue if step == "0" else f"{queue}{_STEP}{step}"


def sending_of(message: dict[str, Any]) -> int:
    """The number of a message's sending; 0 for one that the project did not send."""
    return int(message["headers"].get(names.SENDING_HEADER, 0))


def message_id(message: dict[str, Any]) -> str:
    """The id that Celery knows a message by."""
    return str(message["headers"].get("id", ""))
