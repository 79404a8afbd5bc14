"""Lists an owner's tasks page by page, the newest first."""

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Final, Self, cast

from redis import Redis

from tasks import redis_keys
from tasks.jobs.job import Job
from tasks.jobs.store import JobStore
from tasks.redis_client import redis_errors

#: Records that are read at once.
_BLOCK_SIZE: Final = 100
#: Blocks that are read for one page, also if few jobs pass the filter.
_MAX_BLOCKS: Final = 5
_NO_CURSOR: Final = "This is no cursor of this service; take `next_cursor` of the page before."


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """The position after a job in an owner's list; jobs of one time are ordered by id."""

    submitted: float
    task_id: str

    def write(self) -> str:
        """Return the cursor as one opaque word."""
        text = f"{self.submitted!r} {self.task_id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, word: str) -> Self:
        """Parse a cursor.

        Raises:
            ValueError: it was not written by this service.
        """
        try:
            padded = word + "=" * (-len(word) % 4)
            text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
            submitted, task_id = text.split(" ")
            cursor = cls(float(submitted), task_id)
        except (binascii.Error, UnicodeError, ValueError) as error:
            raise ValueError(_NO_CURSOR) from error
        # Not those that Redis cannot read, such as nan, nor any other text than `write` returns.
        if (
            not redis_keys.is_id(task_id)
            or not isfinite(cursor.submitted)
            or cursor.write() != word
        ):
            raise ValueError(_NO_CURSOR)
        return cursor


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of jobs, and the cursor of the next one; None after the last page."""

    jobs: list[Job]
    after: Cursor | None


@dataclass(frozen=True, slots=True)
class TaskList:
    """Reads the lists; raises `QueueUnavailableError` if Redis does not answer."""

    client: Redis
    job_store: JobStore

    def page(
        self, owner_id: str, *, limit: int, after: Cursor | None, wanted: Callable[[Job], bool]
    ) -> TaskPage:
        """Return up to `limit` jobs that pass a filter.

        A page may be shorter and still have a next one, if few jobs pass. `after` is the cursor of
        the page before.
        """
        jobs: list[Job] = []
        for _ in range(_MAX_BLOCKS):
            block = self._block(owner_id, after)
            for job, place in self._records(owner_id, block):
                if len(jobs) == limit:
                    return TaskPage(jobs, after)
                after = place
                if job is not None and wanted(job):
                    jobs.append(job)
            if len(block) < _BLOCK_SIZE:
                return TaskPage(jobs, None)
        return TaskPage(jobs, after)

    def _block(self, owner_id: str, after: Cursor | None) -> list[Cursor]:
        """Return the next positions; the records of some may have expired."""
        name = redis_keys.owner_tasks_key(owner_id)
        start = "+inf" if after is None else repr(after.submitted)
        found: list[Cursor] = []
        offset = 0
        while len(found) < _BLOCK_SIZE:
            with redis_errors():
                rows = cast(
                    "list[tuple[str, float]]",
                    self.client.zrange(
                        name,
                        start,
                        "-inf",
                        desc=True,
                        byscore=True,
                        offset=offset,
                        num=_BLOCK_SIZE,
                        withscores=True,
                    ),
                )
            places = (Cursor(float(score), task_id) for task_id, score in rows)
            # Those of the cursor's time that come before it were shown.
            found += [each for each in places if after is None or each < after]
            offset += len(rows)
            if len(rows) < _BLOCK_SIZE:
                break
        return found[:_BLOCK_SIZE]

    def _records(self, owner_id: str, places: list[Cursor]) -> Iterator[tuple[Job | None, Cursor]]:
        records = self.job_store.read([each.task_id for each in places])
        by_id = {job.task_id: job for job in records.readable()}
        present = by_id.keys() | records.unreadable.keys()
        expired = [each.task_id for each in places if each.task_id not in present]
        if expired:
            with redis_errors():
                self.client.zrem(redis_keys.owner_tasks_key(owner_id), *expired)
        yield from ((by_id.get(each.task_id), each) for each in places)
