"""Shows that a worker's model answers: only an inference refreshes the announcement."""

import json
import os
import threading
import time
from typing import Final

import numpy as np
import structlog
from redis import Redis
from redis.exceptions import RedisError

from inference.models.base import Matting
from tasks import keys
from tasks.errors import QueueUnavailableError
from tasks.fleet import Fleet
from tasks.worker.startup import path_facts

_PROBE_SIDE: Final = 64
#: Weight of the newest job in the running mean of what a job takes.
_NEWEST: Final = 0.3

_log = structlog.get_logger(__name__)


class Readiness:
    """Probes the idle model, and announces the worker while the model answers.

    Args:
        client: Redis.
        fleet: the workers' facts.
        model: loaded and warm.
        lock: held while the model runs.
        worker: Celery's name of this worker.
        seconds: how long an answer counts. Longer than the longest job may take, which keeps
            the probe away: the time limit sees to that one.
        interval: seconds from one probe to the next.
    """

    def __init__(
        self,
        client: Redis,
        fleet: Fleet,
        model: Matting,
        lock: threading.Lock,
        worker: str,
        *,
        seconds: float,
        interval: float,
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._model = model
        self._lock = lock
        self._worker = worker
        self._seconds = seconds
        self._interval = interval
        self._path = path_facts(model)
        self._mean: float | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Announce the warm model, then probe it from a thread for the process's life."""
        self.announce()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def begin(self) -> None:
        """A job begins."""
        try:
            self._fleet.note(self._worker, running=1)
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))

    def end(self, took: float | None) -> None:
        """A job has ended, after so many seconds of work; None if it did not run to its end."""
        if took is not None:
            self._mean = took if self._mean is None else self._mean + _NEWEST * (took - self._mean)
        try:
            if took is None or self._mean is None:
                self._fleet.note(self._worker, running=0)
            else:
                self._fleet.finished(self._worker, self._mean)
                self.announce()
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))

    def announce(self) -> None:
        """Say that the model has just answered."""
        model, pid = self._model.name, os.getpid()
        text = json.dumps({"model": model, "pid": pid, "at": time.time()})
        try:
            self._client.set(keys.ready_key(self._worker), text, ex=int(self._seconds))
            self._fleet.announce(self._worker, self._seconds, model=model, pid=pid, **self._path)
        except (RedisError, QueueUnavailableError) as error:
            _log.warning("worker.announce_failed", reason=str(error))

    def withdraw(self) -> None:
        """Stop, and take the announcement back."""
        self._ended.set()
        try:
            self._client.delete(keys.ready_key(self._worker))
            self._fleet.withdraw(self._worker)
        except (RedisError, QueueUnavailableError) as error:
            _log.warning("worker.withdraw_failed", reason=str(error))

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            with self._lock:
                self._model.matte([np.zeros((_PROBE_SIDE, _PROBE_SIDE, 3), np.uint8)])
            self.announce()
