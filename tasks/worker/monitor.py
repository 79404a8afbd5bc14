"""The parent's monitor thread: heartbeat, drain requests, and the child's liveness."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from celery import bootsteps
from celery.worker import state

from tasks.app import ready_seconds
from tasks.errors import QueueUnavailableError
from tasks.jobs import routing
from tasks.redis_client import redis_errors
from tasks.runtime import Runtime, runtime_of
from tasks.worker_registry import ALIVE_SECONDS, HEARTBEAT_SECONDS


def child_pids() -> set[int]:
    """Their pids."""
    from billiard.process import active_children  # noqa: PLC0415 - of the running pool

    return {child.pid for child in active_children()}


def kill_child(pid: int) -> None:
    """Kill one of them, unless it is gone; a call of native code heeds nothing gentler."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class LivenessTimeout:
    """Tells a process that no longer answers from one whose answers could not be heard.

    An answer is heard by way of Redis, and counts there for a while. Once it no longer does, its
    process has been silent for all that while, if Redis could be asked all the time; after an
    outage of Redis the same while is waited for again.

    Args:
        seconds: how long an answer counts.
        gap: longer than this between two looks, and something may have been missed.
        clock: gives seconds that no change of the system's time touches.
    """

    def __init__(
        self, seconds: float, gap: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._gap = gap
        self._clock = clock
        self._looked = clock()
        # What was said before, a former process of the same number may have said.
        self._patient_until = self._looked + seconds

    def look(self, *, answered: bool) -> bool:
        """Note whether an answer counts at this moment; True if the process is silent."""
        now = self._clock()
        if now - self._looked > self._gap:
            self._patient_until = now + self._seconds
        self._looked = now
        return not answered and now >= self._patient_until


#: A parent looks so often whether its new process has loaded the model.
_LOAD_TIMEOUT_SECONDS: Final = 0.5

#: Kombu's sorted set of messages taken and not acknowledged, by the time they were taken.
_UNACKED_INDEX: Final = "unacked_index"

_log = structlog.get_logger(__name__)


class WorkerMonitorStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """A thread in the parent. Celery's own timers stop during a warm shutdown; this one goes on."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on model workers."""
        return any(routing.is_model_queue(name) for name in worker.app.amqp.queues.consume_from)

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin to beat."""
        settings = runtime_of(worker.app).settings
        # Connections of its own: nothing else that the parent does is to delay a beat.
        runtime = Runtime.from_settings(settings, celery_app=worker.app)
        silence = LivenessTimeout(ready_seconds(settings), ALIVE_SECONDS)
        heart = WorkerMonitor(runtime, worker, silence)
        # The consumer starts after this step: it is to take nothing before a model is ready.
        heart.hold()
        self._thread = threading.Thread(
            target=heart.run, args=(self._ended,), name="heartbeat", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """End, and say so."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=HEARTBEAT_SECONDS)

    terminate = stop


class WorkerMonitor:
    """One beat does each of the parent's duties once."""

    def __init__(
        self,
        runtime: Runtime,
        worker: Any,  # noqa: ANN401 - celery publishes no types
        silence: LivenessTimeout,
        *,
        children: Callable[[], set[int]] = child_pids,
    ) -> None:
        self._client = runtime.redis
        self._fleet = runtime.registry
        self._worker = worker
        self._name = str(worker.hostname)
        self._queues = sorted(worker.app.amqp.queues.consume_from)
        self._model = runtime.settings.model
        self._silence = silence
        self._children = children
        self._loaded = 0

    def hold(self) -> None:
        """Take from no queue, until a process has shown that its model answers."""
        for queue in self._queues:
            self._worker.app.amqp.queues.deselect(queue)

    def run(self, ended: threading.Event) -> None:
        """Beat until told to end; whatever one beat meets, the next one comes."""
        while True:
            try:
                self.beat()
            except QueueUnavailableError as error:
                _log.warning("heartbeat.redis_away", reason=str(error))
            except Exception:  # noqa: BLE001 - the heart must not stop
                _log.exception("heartbeat.failed")
            if ended.wait(HEARTBEAT_SECONDS if self._ready() else _LOAD_TIMEOUT_SECONDS):
                break
        try:
            self._fleet.leave(self._name)
        except QueueUnavailableError as error:
            _log.warning("heartbeat.leave_failed", reason=str(error))

    def beat(self) -> None:
        """Once."""
        own = next((name for name in self._queues if name.startswith(routing.GPU_PREFIX)), "")
        self._fleet.beat(self._name, queue=own, model=self._model)
        self._mind_child()
        if self._ready():
            # What a worker without a model has in hand is for others: the reconciler misses it.
            self._keep_messages()
        self._choose_queues()

    def _ready(self) -> bool:
        """Has the process that there is now shown that its model answers?"""
        return self._loaded in self._children()

    def _keep_messages(self) -> None:
        """Refresh the messages in hand, so that no visibility timeout gives them to others."""
        tags = [request._message.delivery_tag for request in tuple(state.reserved_requests)]  # noqa: SLF001 - celery has no other way; contract-tested
        if tags:
            with redis_errors():
                self._client.zadd(_UNACKED_INDEX, dict.fromkeys(tags, time.time()), xx=True)

    def _choose_queues(self) -> None:
        """Take from its queues if it is ready and not drained.

        This goes by what is consumed from: whatever the consumer was told before may have been
        lost.
        """
        consumer = getattr(self._worker, "consumer", None)
        if consumer is None or state.should_stop is not None or state.should_terminate is not None:
            return  # It has yet to begin, or has been told to end.
        drained = bool(self._fleet.drained(self._name))
        take = self._ready() and not drained
        selected = self._worker.app.amqp.queues.consume_from
        wrong = [queue for queue in self._queues if (queue in selected) != take]
        if wrong:
            # The consumer is its own thread's. Its own queue comes first, and is looked into first;
            # of several calls any might be made first.
            consumer.call_soon(_set_consuming, consumer, wrong, take)
            event = "worker.takes" if take else "worker.takes_nothing"
            _log.warning(event, worker=self._name, drained=drained, ready=self._ready())

    def _mind_child(self) -> None:
        """Kill the child whose answers ceased, and take back the word of one that is gone."""
        pid, counts = self._fleet.answer(self._name)
        silent = self._silence.look(answered=counts)
        if counts and pid in self._children():
            self._loaded = pid
        if pid not in self._children():
            if counts:
                _log.warning("worker.child_gone", worker=self._name, pid=pid)
                self._fleet.withdraw(self._name, pid=pid)
        elif silent:
            _log.error("worker.child_silent", worker=self._name, pid=pid)
            self._fleet.withdraw(self._name, pid=pid)
            kill_child(pid)


def _set_consuming(consumer: Any, queues: list[str], take: bool) -> None:  # noqa: ANN401, FBT001 - celery's
    for queue in queues:
        (consumer.add_task_queue if take else consumer.cancel_task_queue)(queue)
