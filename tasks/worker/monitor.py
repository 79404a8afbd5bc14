"""The parent's monitor thread: heartbeat, drain requests, and the child's liveness."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
from billiard.process import active_children
from celery import bootsteps
from celery.worker import state

from tasks import redis_keys
from tasks.app import ready_seconds
from tasks.errors import QueueUnavailableError
from tasks.jobs import routing
from tasks.jobs.job import Status
from tasks.redis_client import redis_errors
from tasks.runtime import Runtime, runtime_of
from tasks.worker.startup import end_namesake, new_instance
from tasks.worker_registry import ALIVE_SECONDS, HEARTBEAT_SECONDS

#: Interval of the ticks while a child loads its model.
_LOADING_TICK_SECONDS: Final = 0.5

_log = structlog.get_logger(__name__)


def child_pids() -> set[int]:
    """Return the process ids of the pool's children."""
    return {child.pid for child in active_children()}


def kill_child(pid: int) -> None:
    """Kill a child, unless it is gone; native code obeys no other signal."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def resident_bytes(pids: Iterable[int]) -> int:
    """Return what processes hold in memory; 0 on systems without `/proc`.

    Pages that they share count for each of them.
    """
    pages = 0
    for pid in pids:
        with suppress(OSError):  # it has just ended
            pages += int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class LivenessTimeout:
    """Expires when a child's model has not answered for too long.

    The child's answers come by way of Redis, where each counts for some seconds. An outage hides
    them, so that the child has the whole time again after one. A time between two checks that is
    longer than `gap` counts as an outage.
    """

    def __init__(
        self, seconds: float, gap: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._gap = gap
        self._clock = clock
        self._checked_at = clock()
        # An earlier answer may be that of a former process with the same id.
        self._expires_at = self._checked_at + seconds

    def expired(self, *, answered: bool) -> bool:
        """Return whether the child is to be replaced; asked at every tick.

        `answered`: its last answer counts now.
        """
        now = self._clock()
        if now - self._checked_at > self._gap:
            self._expires_at = now + self._seconds
        self._checked_at = now
        return not answered and now >= self._expires_at


class WorkerMonitorStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs the monitor in a thread: Celery's timers stop during a warm shutdown."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - celery's signature
        """Run on model workers only."""
        return routing.is_model_worker(worker.app)

    def start(self, worker: Any) -> None:  # noqa: ANN401 - celery's signature
        """Start the thread."""
        settings = runtime_of(worker.app).settings
        # Connections of its own, so that nothing else in the parent delays a heartbeat.
        runtime = Runtime(settings, celery_app=worker.app)
        timeout = LivenessTimeout(ready_seconds(settings), ALIVE_SECONDS)
        monitor = WorkerMonitor(runtime, worker, timeout)
        # The consumer starts after this step, and takes nothing before the model is ready.
        monitor.pause_consuming()
        self._thread = threading.Thread(
            target=monitor.run, args=(self._ended,), name="heartbeat", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """End the thread, which removes the worker from the registry."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=HEARTBEAT_SECONDS)

    terminate = stop


class WorkerMonitor:
    """Does each of the parent's duties once in a tick."""

    def __init__(
        self,
        runtime: Runtime,
        worker: Any,  # noqa: ANN401 - celery publishes no types
        timeout: LivenessTimeout,
        *,
        children: Callable[[], set[int]] = child_pids,
        end_namesake: Callable[[str], None] = end_namesake,
    ) -> None:
        self._client = runtime.redis
        self._registry = runtime.registry
        self._job_store = runtime.job_store
        self._worker = worker
        self._name = str(worker.hostname)
        self._queues = sorted(worker.app.amqp.queues.consume_from)
        self._model = runtime.settings.model
        self._timeout = timeout
        self._children = children
        self._end_namesake = end_namesake
        self._ready_pid = 0
        self._instance = new_instance()
        self._has_beaten = False
        self._is_namesake = False
        #: Ids of messages whose revocation has been applied.
        self._revoked: set[str] = set()

    def pause_consuming(self) -> None:
        """Take from no queue until a child's model has answered."""
        for queue in self._queues:
            self._worker.app.amqp.queues.deselect(queue)

    def run(self, ended: threading.Event) -> None:
        """Tick until the worker ends; no failure of a tick ends the thread."""
        while True:
            try:
                self.tick()
            except QueueUnavailableError as error:
                _log.warning("heartbeat.redis_away", reason=str(error))
            except Exception:  # noqa: BLE001 - see above
                _log.exception("heartbeat.failed")
            if ended.wait(HEARTBEAT_SECONDS if self._ready() else _LOADING_TICK_SECONDS):
                break
        if self._is_namesake:
            return
        try:
            self._registry.remove(self._name)
        except QueueUnavailableError as error:
            _log.warning("heartbeat.leave_failed", reason=str(error))

    def tick(self) -> None:
        """Send the heartbeat, check the child, keep its messages, apply drains and revocations."""
        own = next((name for name in self._queues if name.startswith(routing.GPU_PREFIX)), "")
        resident = resident_bytes({os.getpid(), *self._children()})
        before = self._registry.record_heartbeat(
            self._name, queue=own, model=self._model, resident=resident, instance=self._instance
        )
        self._check_name(before)
        self._check_child()
        if self._ready():
            # The messages of a worker without a model go to others: the reconciler resends them.
            self._keep_messages()
        self._apply_drain()
        self._apply_revocations()

    def _check_name(self, before: str) -> None:
        """End if another worker of this name that began earlier sent the heartbeat before.

        The check at the start finds none that began at the same moment.
        """
        if self._has_beaten and before and before < self._instance and not self._is_namesake:
            self._is_namesake = True
            self._end_namesake(self._name)
        self._has_beaten = True

    def _ready(self) -> bool:
        """Return whether the current child's model has answered."""
        return self._ready_pid in self._children()

    def _keep_messages(self) -> None:
        """Refresh the visibility timeout of the worker's messages, so that no other gets them."""
        tags = [request._message.delivery_tag for request in tuple(state.reserved_requests)]  # noqa: SLF001 - celery has no other way
        if tags:
            now = self._registry.now()
            with redis_errors():
                self._client.zadd(redis_keys.UNACKED_INDEX, dict.fromkeys(tags, now), xx=True)

    def _apply_drain(self) -> None:
        """Consume from the worker's queues if it is ready and not drained, else from none.

        Compares with the queues that are consumed from now, since an earlier request to the
        consumer may have been lost.
        """
        consumer = getattr(self._worker, "consumer", None)
        if consumer is None or state.should_stop is not None or state.should_terminate is not None:
            return  # It has not started, or it is shutting down.
        drained = bool(self._registry.drained(self._name))
        take = self._ready() and not drained
        selected = self._worker.app.amqp.queues.consume_from
        wrong = [queue for queue in self._queues if (queue in selected) != take]
        if wrong:
            # The consumer belongs to another thread. One call for all queues keeps their order:
            # the worker's own queue comes first, and is served first.
            consumer.call_soon(_set_consuming, consumer, wrong, take)
            log, event = (
                (_log.info, "worker.takes") if take else (_log.warning, "worker.takes_nothing")
            )
            log(event, worker=self._name, drained=drained, ready=self._ready())

    def _apply_revocations(self) -> None:
        """Cancel jobs that wait on a list and whose latest message has been revoked.

        Celery discards a revoked message when a worker takes it. But a worker may have taken it
        before, for another job whose turn it was, and the job waits for that one's message.
        """
        revoked = set(state.revoked)
        named = [routing.task_id_of_message(each) for each in revoked - self._revoked]
        for job in self._job_store.read(named).jobs:
            if routing.message_id(job) in revoked:
                outcome = self._job_store.cancel(
                    job.task_id, only=Status.QUEUED, redispatches=job.redispatches
                )
                _log.info("job.revoked", task_id=job.task_id, outcome=outcome)
        self._revoked = revoked

    def _check_child(self) -> None:
        """Kill a child that no longer answers, and unregister one that is gone."""
        pid, answered = self._registry.last_answer(self._name)
        expired = self._timeout.expired(answered=answered)
        if answered and pid in self._children():
            self._ready_pid = pid
        if pid not in self._children():
            if answered:
                _log.warning("worker.child_gone", worker=self._name, pid=pid)
                self._registry.mark_not_ready(self._name, pid=pid)
        elif expired:
            _log.error("worker.child_silent", worker=self._name, pid=pid)
            self._registry.mark_not_ready(self._name, pid=pid)
            kill_child(pid)


def _set_consuming(consumer: Any, queues: list[str], take: bool) -> None:  # noqa: ANN401, FBT001 - celery's
    for queue in queues:
        (consumer.add_task_queue if take else consumer.cancel_task_queue)(queue)
