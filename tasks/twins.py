"""Jobs that wait for an equal job's result: seen to when that job, their leader, has ended."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import structlog
from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.copies import copy_result, discard, result_facts
from tasks.dispatch import Dispatcher
from tasks.errors import ObjectNotFoundError, QueueUnavailableError, StoreUnavailableError
from tasks.jobs import Job, Status, to_record
from tasks.reasons import EXPIRED, LOST, OVERDUE
from tasks.routing import Router
from tasks.scripts import load_scripts
from tasks.storage import ObjectStore
from tasks.store import JobStore

#: A leader failed for a reason that is not its followers': one of them is to try.
_OWN_REASONS: Final = frozenset({LOST.type, OVERDUE.type, EXPIRED.type, "original_missing"})
#: Followers that are seen to before the next leader's are.
_AT_ONCE: Final = 100
#: One process at a time sees to a leader; should it die, another takes over after so long.
_LOCK_MS: Final = 15_000

_log = structlog.get_logger(__name__)


class Settler:
    """Gives followers what their leaders came to; each step may be repeated without harm."""

    def __init__(
        self,
        client: Redis,
        store: JobStore,
        objects: ObjectStore,
        dispatcher: Dispatcher,
        router: Router,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._objects = objects
        self._dispatcher = dispatcher
        self._router = router
        self._clock = clock
        self._scripts = load_scripts(client)

    def run_once(self) -> int:
        """See to the leaders that have ended; how many followers were settled.

        Raises:
            QueueUnavailableError, StoreUnavailableError: the rest waits for the next call.
        """
        with redis_errors():
            ended = cast("list[str]", self._client.zrange(keys.SETTLING, 0, -1))
        return sum(self._attempt(leader_id) for leader_id in ended)

    def _attempt(self, leader_id: str) -> int:
        """One leader; if its followers cannot be settled now, the others come before it."""
        try:
            return self._settle_alone(leader_id)
        except QueueUnavailableError:
            raise
        except StoreUnavailableError:
            # The store may be away; or it is this one result alone that it does not give.
            self._put_last(leader_id)
            raise
        except Exception:  # noqa: BLE001 - whatever its record holds
            _log.exception("twin.not_settled", leader=leader_id)
            self._put_last(leader_id)
        return 0

    def _put_last(self, leader_id: str) -> None:
        with redis_errors():
            self._client.zadd(keys.SETTLING, {leader_id: self._clock()}, xx=True)

    def _settle_alone(self, leader_id: str) -> int:
        lock = f"{keys.SETTLING}:{leader_id}"
        with redis_errors():
            if not self._client.set(lock, "1", nx=True, px=_LOCK_MS):
                return 0
        try:
            return self.settle(leader_id)
        finally:
            with redis_errors():
                self._client.delete(lock)

    def settle(self, leader_id: str) -> int:
        """Settle a leader's followers, or let one of them run; how many were settled."""
        followers = self._followers(leader_id)
        leader = next(iter(self._store.read([leader_id]).jobs), None)
        if not followers:
            self._drop(leader_id)
            return 0
        if leader is not None and not leader.status.final:
            return 0  # begun anew by an operator: they go on waiting
        if leader is not None and leader.status is Status.SUCCEEDED:
            return self._succeed(leader, followers)
        if leader is not None and leader.error and leader.error.type not in _OWN_REASONS:
            return sum(self._end(each, leader, error=leader.error) for each in followers)
        self._promote(leader_id, followers)
        return 0

    def _followers(self, leader_id: str) -> list[Job]:
        with redis_errors():
            found = cast("set[str]", self._client.smembers(keys.followers_key(leader_id)))
        some = sorted(found)[:_AT_ONCE]
        records = self._store.read(some)
        for task_id in records.unreadable:
            # It cannot be told what it wants: it waits by itself, and the reconciler looks at it.
            self._store.set_aside(task_id, self._clock())
        present = records.told()
        gone = set(some) - {job.task_id for job in present}
        if gone:
            with redis_errors():
                self._client.srem(keys.followers_key(leader_id), *gone)
        return present

    def _drop(self, leader_id: str) -> None:
        with redis_errors():
            self._client.zrem(keys.SETTLING, leader_id)

    def _succeed(self, leader: Job, followers: Sequence[Job]) -> int:
        settled = 0
        for follower in followers:
            try:
                settled += self._copy(leader, follower)
            except ObjectNotFoundError:
                # Erased in the meantime: those that are left need a run of their own.
                self._promote(leader.task_id, self._followers(leader.task_id))
                break
        return settled

    def _copy(self, leader: Job, follower: Job) -> bool:
        copy_result(self._objects, follower, leader)
        facts = result_facts(follower, leader)
        began = max(leader.started_at or follower.created_at, follower.created_at)
        waited = {"queue_ms": max(0, round((self._clock() - follower.created_at) * 1000))}
        done = self._end(
            follower, leader, started_at=began, worker=leader.worker, timings=waited, **facts
        )
        if not done:
            self._discard(follower, facts["result_key"])
        return done

    def _discard(self, follower: Job, key: str) -> None:
        """Canceled or erased while its copy was made; unless another process was quicker."""
        present = self._store.get(follower.task_id)
        if present is None or present.result_key != key:
            discard(self._objects, key)

    def _end(self, follower: Job, leader: Job, **changes: Any) -> bool:  # noqa: ANN401 - any field's type
        """End a follower as its leader ended; False if it does not wait for it any more."""
        record = [part for pair in to_record(changes).items() for part in pair]
        ended = self._run(
            "settle",
            follower.task_id,
            leader.task_id,
            self._clock(),
            leader.status.value,
            *record,
        )
        return bool(ended)

    def _promote(self, leader_id: str, followers: Sequence[Job]) -> None:
        """The most urgent one runs, and the others follow it."""
        for chosen in sorted(followers, key=lambda job: (job.priority, job.created_at)):
            leads = self._run("promote", leader_id, chosen.task_id, self._clock())
            if leads:
                _log.info("twin.promoted", task_id=leads, instead_of=leader_id)
                send_due(self._store, self._dispatcher, self._router, leads)
                return

    def _run(self, script: str, *arguments: Any) -> Any:  # noqa: ANN401 - what Redis takes and gives
        with redis_errors():
            return self._scripts[script](args=arguments)


def send_due(store: JobStore, dispatcher: Dispatcher, router: Router, task_id: str) -> None:
    """Send a job at once whose message is due; the reconciler sends it if this fails."""
    try:
        job = store.get(task_id)
        if job is not None and store.is_due(task_id):
            queue = router.choose(job.model, job.urgency, avoid=job.avoid)
            dispatcher.send_again(task_id, queue=queue)
    except QueueUnavailableError as error:
        _log.warning("twin.not_sent", task_id=task_id, reason=str(error))
