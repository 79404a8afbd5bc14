"""Drops what is left of expired records: Redis forgets a record by itself, not its places in sets.

Each pass looks at a part of each set, so that a pass costs the same however many jobs there are.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Final

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.jobs import Status
from tasks.store import JobStore

#: Members of a set looked at in one pass, about.
_PART: Final = 200
_SETS: Final = (
    *(keys.index_key(status) for status in Status),
    keys.DUE,
    keys.DEADLINES,
    keys.DEAD,
)


class Pruner:
    """Walks round the sets, remembering how far it came in each."""

    def __init__(self, client: Redis, store: JobStore) -> None:
        self._client = client
        self._store = store
        self._cursors: dict[str, int] = {}

    def run_once(self, *, until: float = math.inf) -> int:
        """Look at one part of every set; how many jobs were dropped.

        Args:
            until: by the monotonic clock, when to leave what is left to the next pass.
        """
        dropped = 0
        lists = {keys.sent_key(name): name for name in self._store.lists()}
        sets = [*_SETS, *lists]
        self._cursors = {key: self._cursors.get(key, 0) for key in sets}
        for key, cursor, task_ids in self._parts(sets):
            if time.monotonic() > until:
                break
            if key in lists and not task_ids:
                self._store.forget_list(lists[key])
            gone = set(task_ids) - self._store.recorded(task_ids)
            for task_id in gone:
                self._store.forget(task_id, list_name=lists.get(key, ""))
            self._cursors[key] = cursor
            dropped += len(gone)
        return dropped

    def _parts(self, sets: Sequence[str]) -> Iterator[tuple[str, int, list[str]]]:
        """The next part of each set, and the cursor after it, in one round trip."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for key in sets:
                pipe.zscan(key, self._cursors[key], count=_PART)
            answers = pipe.execute()
        for key, (cursor, members) in zip(sets, answers, strict=True):
            yield key, cursor, [member for member, _ in members]
