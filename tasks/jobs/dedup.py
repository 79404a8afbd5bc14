"""Deduplication: complete the duplicates of a primary job once it has ended."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from redis import Redis

from tasks import lua_scripts, redis_keys
from tasks.errors import (
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    QueueUnavailableError,
    UnreadableRecordError,
)
from tasks.jobs.job import EXPIRED, LOST, OVERDUE, Job, Status, to_record
from tasks.jobs.job_objects import copied_result_fields, copy_result, discard_object
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import JobStore
from tasks.lua_scripts import move_member, set_absent
from tasks.object_store import ObjectStore
from tasks.redis_client import redis_errors

#: Errors of a primary that do not concern its duplicates: one of these runs instead.
_PRIMARY_ONLY_ERRORS: Final = frozenset({LOST.type, OVERDUE.type, EXPIRED.type, "original_missing"})
#: Duplicates of one primary that are completed before the next primary's turn.
_DUPLICATES_PER_PASS: Final = 100
#: Lock of the process that completes a primary's duplicates; if it dies, another goes on after.
_LOCK_MS: Final = 15_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DuplicateCompleter:
    """Completes the duplicates of primaries that have ended; each step may be repeated."""

    client: Redis
    job_store: JobStore
    object_store: ObjectStore
    dispatcher: JobDispatcher
    router: Router
    clock: Callable[[], float] = time.time

    def run_once(self) -> int:
        """Complete the duplicates of all primaries that have ended; return how many were completed.

        Raises:
            QueueUnavailableError, ObjectStoreUnavailableError: the next call does the rest.
        """
        with redis_errors():
            ended = cast("list[str]", self.client.zrange(redis_keys.COMPLETING, 0, -1))
        return sum(self._attempt(primary_id) for primary_id in ended)

    def _attempt(self, primary_id: str) -> int:
        """Complete one primary's duplicates; if that fails, the other primaries come first."""
        try:
            return self._complete_locked(primary_id)
        except QueueUnavailableError:
            raise
        except ObjectStoreUnavailableError:
            # Either the object store is down, or it cannot deliver this one result.
            self._put_last(primary_id)
            raise
        except Exception:  # noqa: BLE001 - a damaged record may raise anything
            _log.exception("duplicate.not_completed", primary=primary_id)
            self._put_last(primary_id)
        return 0

    def _put_last(self, primary_id: str) -> None:
        with redis_errors():
            move_member(self.client, redis_keys.COMPLETING, primary_id, self.clock())

    def _complete_locked(self, primary_id: str) -> int:
        lock = f"{redis_keys.COMPLETING}:{primary_id}"
        with redis_errors():
            if not set_absent(self.client, lock, "1", seconds=_LOCK_MS / 1000):
                return 0
        try:
            return self.complete(primary_id)
        finally:
            with redis_errors():
                self.client.delete(lock)

    def complete(self, primary_id: str) -> int:
        """Complete a primary's duplicates, or let one of them run; return how many completed."""
        duplicates = self._duplicates(primary_id)
        primary = next(iter(self.job_store.read([primary_id]).jobs), None)
        if not duplicates:
            with redis_errors():
                self.client.zrem(redis_keys.COMPLETING, primary_id)
            return 0
        if primary is not None and not primary.status.final:
            return 0  # requeued by an operator: its duplicates wait for its next end
        if primary is not None and primary.status is Status.SUCCEEDED:
            return self._succeed(primary, duplicates)
        if primary is not None and primary.error and primary.error.type not in _PRIMARY_ONLY_ERRORS:
            return sum(self._end(each, primary, error=primary.error) for each in duplicates)
        self._promote(primary_id, duplicates)
        return 0

    def _duplicates(self, primary_id: str) -> list[Job]:
        with redis_errors():
            found = cast("set[str]", self.client.smembers(redis_keys.duplicates_key(primary_id)))
        some = sorted(found)[:_DUPLICATES_PER_PASS]
        records = self.job_store.read(some)
        for task_id in records.unreadable:
            # It leaves the primary and becomes due: the reconciler quarantines it.
            self.job_store.quarantine(task_id, self.clock())
        present = records.readable()
        gone = set(some) - {job.task_id for job in present}
        if gone:
            with redis_errors():
                self.client.srem(redis_keys.duplicates_key(primary_id), *gone)
        return present

    def _succeed(self, primary: Job, duplicates: Sequence[Job]) -> int:
        completed = 0
        for duplicate in duplicates:
            try:
                completed += self._copy(primary, duplicate)
            except ObjectNotFoundError:
                # The primary was erased meanwhile: one of the remaining duplicates must run.
                self._promote(primary.task_id, self._duplicates(primary.task_id))
                break
        return completed

    def _copy(self, primary: Job, duplicate: Job) -> bool:
        copy_result(self.object_store, duplicate, primary)
        facts = copied_result_fields(duplicate, primary)
        began = max(primary.started_at or duplicate.created_at, duplicate.created_at)
        waited = {"queue_ms": max(0, round((self.clock() - duplicate.created_at) * 1000))}
        done = self._end(
            duplicate, primary, started_at=began, worker=primary.worker, timings=waited, **facts
        )
        if not done:
            # It was canceled or erased meanwhile, or another process completed it with this copy.
            present = self.job_store.get(duplicate.task_id)
            if present is None or present.result_key != facts["result_key"]:
                discard_object(self.object_store, facts["result_key"])
        return done

    def _end(self, duplicate: Job, primary: Job, **changes: Any) -> bool:  # noqa: ANN401 - any field's type
        """End a duplicate as its primary ended; False if it no longer waits for that one."""
        with redis_errors():
            ended = lua_scripts.JOBS.run(
                self.client,
                "complete_duplicate",
                id=duplicate.task_id,
                primary=primary.task_id,
                now=self.clock(),
                status=primary.status.value,
                fields=to_record(changes),
            )
        if ended:
            facts = {"primary": primary.task_id, "status": primary.status.value}
            _log.info("duplicate.completed", **duplicate.log_context(), **facts)
        return bool(ended)

    def _promote(self, primary_id: str, duplicates: Sequence[Job]) -> None:
        """Let the most urgent duplicate run as the primary of the others."""
        for chosen in sorted(duplicates, key=lambda job: (job.priority, job.created_at)):
            with redis_errors():
                promoted = lua_scripts.JOBS.run(
                    self.client,
                    "promote_duplicate",
                    id=chosen.task_id,
                    primary=primary_id,
                    now=self.clock(),
                )
            if promoted:
                _log.info("duplicate.promoted", task_id=promoted, instead_of=primary_id)
                send_if_due(self.job_store, self.dispatcher, self.router, promoted)
                return


def send_if_due(
    job_store: JobStore, dispatcher: JobDispatcher, router: Router, task_id: str
) -> None:
    """Send the message of a job that is due; if that fails, the reconciler sends it."""
    try:
        job = job_store.get(task_id)
        if job is not None and job_store.is_due(task_id):
            queue = router.choose(job.model, excluded_worker=job.excluded_worker)
            dispatcher.send_again(task_id, queue=queue)
    except (QueueUnavailableError, UnreadableRecordError) as error:
        _log.warning("duplicate.not_sent", task_id=task_id, reason=str(error))
