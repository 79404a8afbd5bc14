"""What the parent of a model worker does beside consuming.

It says that it lives, keeps its messages from being given to others, obeys a drain, and replaces
a child that no longer answers.
"""

import os
import signal
import threading
import time
from typing import Any, Final

import structlog
from celery import bootsteps
from celery.worker import state
from redis import Redis

from tasks import keys, names
from tasks.errors import QueueUnavailableError
from tasks.fleet import BEAT_SECONDS, Fleet
from tasks.settings import Settings
from tasks.store import connect, redis_errors

#: Kombu's sorted set of messages taken and not acknowledged, by the time they were taken.
_UNACKED_INDEX: Final = "unacked_index"

_log = structlog.get_logger(__name__)


class HeartbeatStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """A thread in the parent. Celery's own timers stop during a warm shutdown; this one goes on."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - the same
        """Only on model workers."""
        return any(names.is_model_queue(name) for name in worker.app.amqp.queues.consume_from)

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin to beat."""
        settings = Settings.load()
        client = connect(settings.redis_url.get_secret_value())
        heart = Heart(client, worker, settings.model)
        self._thread = threading.Thread(
            target=heart.run, args=(self._ended,), name="heartbeat", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """End, and say so."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=BEAT_SECONDS)

    terminate = stop


class Heart:
    """One beat does each of the parent's duties once."""

    def __init__(self, client: Redis, worker: Any, model: str) -> None:  # noqa: ANN401 - celery's
        self._client = client
        self._fleet = Fleet(client)
        self._app = worker.app
        self._name = str(worker.hostname)
        self._queues = sorted(worker.app.amqp.queues.consume_from)
        self._model = model
        self._answered_pid = 0
        self._paused = False

    def run(self, ended: threading.Event) -> None:
        """Beat until told to end; whatever one beat meets, the next one comes."""
        while True:
            try:
                self.beat()
            except QueueUnavailableError as error:
                _log.warning("heartbeat.redis_away", reason=str(error))
            except Exception:  # noqa: BLE001 - the heart must not stop
                _log.exception("heartbeat.failed")
            if ended.wait(BEAT_SECONDS):
                break
        try:
            self._fleet.leave(self._name)
        except QueueUnavailableError as error:
            _log.warning("heartbeat.leave_failed", reason=str(error))

    def beat(self) -> None:
        """Once."""
        own = next((name for name in self._queues if name.startswith(names.GPU_PREFIX)), "")
        self._fleet.beat(self._name, queue=own, model=self._model)
        self._keep_messages()
        self._obey_drain()
        self._replace_silent_child()

    def _keep_messages(self) -> None:
        """Refresh the messages in hand, so that no visibility timeout gives them to others."""
        tags = [request._message.delivery_tag for request in tuple(state.reserved_requests)]  # noqa: SLF001 - celery has no other way; contract-tested
        if tags:
            with redis_errors():
                self._client.zadd(_UNACKED_INDEX, dict.fromkeys(tags, time.time()), xx=True)

    def _obey_drain(self) -> None:
        drained = bool(self._fleet.drained(self._name))
        if drained == self._paused:
            return
        change = self._app.control.cancel_consumer if drained else self._app.control.add_consumer
        for queue in self._queues:
            change(queue, destination=[self._name])
        self._paused = drained
        _log.warning("worker.drained" if drained else "worker.undrained", worker=self._name)

    def _replace_silent_child(self) -> None:
        """Kill the child whose announcement has lapsed; the pool starts another."""
        with redis_errors():
            announced = self._client.exists(keys.ready_key(self._name))
            pid = int(str(self._client.hget(keys.worker_key(self._name), "pid") or 0))
        if announced:
            self._answered_pid = pid
        elif pid and pid == self._answered_pid and pid in _children():
            _log.error("worker.child_silent", pid=pid)
            self._answered_pid = 0
            os.kill(pid, signal.SIGKILL)


def _children() -> set[int]:
    """Pids of the pool's processes."""
    from billiard.process import active_children  # noqa: PLC0415 - of the running pool

    return {child.pid for child in active_children()}
