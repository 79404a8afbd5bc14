"""Shows that a worker's model answers: a key in Redis that only an inference refreshes."""

import json
import threading
import time
from typing import Final

import numpy as np
import structlog
from redis import Redis
from redis.exceptions import RedisError

from inference.models.base import Matting
from tasks import keys

#: The key outlives a few probes, so that one long job does not make its worker look dead.
READY_SECONDS: Final = 90
PROBE_SECONDS: Final = 30.0
_PROBE_SIDE: Final = 64

_log = structlog.get_logger(__name__)


class Readiness:
    """Probes the idle model, and announces the worker while the model answers."""

    def __init__(self, client: Redis, model: Matting, lock: threading.Lock, worker: str) -> None:
        self._client = client
        self._model = model
        self._lock = lock
        self._worker = worker
        self._ended = threading.Event()

    def start(self) -> None:
        """Announce the warm model, then probe it from a thread for the process's life."""
        self.announce()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def announce(self) -> None:
        """Say that the model has just answered."""
        now = time.time()
        facts = json.dumps({"model": self._model.name, "at": now})
        try:
            with self._client.pipeline() as both:
                both.set(keys.ready_key(self._worker), facts, ex=READY_SECONDS)
                both.zadd(keys.READY_INDEX, {self._worker: now + READY_SECONDS})
                both.execute()
        except RedisError as error:
            _log.warning("worker.announce_failed", reason=str(error))

    def withdraw(self) -> None:
        """Stop, and take the announcement back."""
        self._ended.set()
        try:
            self._client.delete(keys.ready_key(self._worker))
            self._client.zrem(keys.READY_INDEX, self._worker)
        except RedisError as error:
            _log.warning("worker.withdraw_failed", reason=str(error))

    def _run(self) -> None:
        while not self._ended.wait(PROBE_SECONDS):
            with self._lock:
                self._model.matte([np.zeros((_PROBE_SIDE, _PROBE_SIDE, 3), np.uint8)])
            self.announce()
