"""A child's readiness: the model's self-check while idle, and the GPU faults that end it."""

import os
import threading
from collections.abc import Callable
from typing import Final

import numpy as np
import structlog

from inference.errors import InferenceError
from inference.models.base import MattingModel
from tasks.errors import QueueUnavailableError
from tasks.worker.startup import execution_path_facts
from tasks.worker_registry import WorkerRegistry

#: Its memory is full, also after its cache was freed.
OUT_OF_MEMORY: Final = "gpu_out_of_memory"

#: Its context is broken: nothing more can be done with it in this process.
GPU_FAULT: Final = "gpu_fault"

_PROBE_PIXELS: Final = 64

#: Weight of the newest job in the running mean of what a job takes.
_NEWEST: Final = 0.3

#: The next probe comes so soon if Redis did not take the last announcement.
_RETRY_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class Readiness:
    """Probes the idle model, and announces the worker while the model answers.

    Args:
        fleet: the workers' facts.
        model: loaded and warm.
        lock: held while the model runs.
        worker: Celery's name of this worker.
        seconds: how long an answer counts. Longer than the longest job may take, which keeps
            the probe away: the time limit sees to that one.
        interval: seconds from one probe to the next.
        leave: ends this process, whose GPU context is broken.
    """

    def __init__(
        self,
        fleet: WorkerRegistry,
        model: MattingModel,
        lock: threading.Lock,
        worker: str,
        *,
        seconds: float,
        interval: float,
        leave: Callable[[], None],
    ) -> None:
        self._fleet = fleet
        self._model = model
        self._lock = lock
        self._worker = worker
        self._seconds = seconds
        self._interval = interval
        self._leave = leave
        self._path = execution_path_facts(model)
        self._mean: float | None = None
        self._untold = False
        self._busy = False
        self._broken = False
        self._ended = threading.Event()

    def start(self) -> None:
        """Announce the warm model, then probe it from a thread for the process's life."""
        self.announce()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def begin(self) -> None:
        """A job begins."""
        self._busy = True
        self._note(running=1)

    def end(self, took: float | None) -> None:
        """A job is over: after so many seconds of work, or None if the model made no result."""
        self._busy = False
        if self._broken:
            self._leave()
        if took is None:
            self._note(running=0)
            return
        self._mean = took if self._mean is None else self._mean + _NEWEST * (took - self._mean)
        try:
            self._fleet.finished(self._worker, self._mean)
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))
        self.announce()

    def announce(self) -> None:
        """Say that the model has just answered."""
        model, pid = self._model.name, os.getpid()
        try:
            self._fleet.announce(self._worker, self._seconds, model=model, pid=pid, **self._path)
        except QueueUnavailableError as error:
            self._untold = True
            _log.warning("worker.announce_failed", reason=str(error))
        else:
            self._untold = False

    def withdraw(self) -> None:
        """Stop, and take the announcement back."""
        self._ended.set()
        try:
            self._fleet.withdraw(self._worker)
        except QueueUnavailableError as error:
            _log.warning("worker.withdraw_failed", reason=str(error))

    def probe(self) -> None:
        """Ask the model, and announce its answer; without one the announcement lapses."""
        try:
            with self._lock:
                self._model.matte([np.zeros((_PROBE_PIXELS, _PROBE_PIXELS, 3), np.uint8)])
        except InferenceError as error:
            _log.error("worker.probe_failed", worker=self._worker, reason=str(error))
            if error.code == GPU_FAULT:
                self._end_broken(error.code)
        except Exception:  # noqa: BLE001 - the next probe may fare better
            _log.exception("worker.probe_failed", worker=self._worker)
        else:
            self.announce()

    def _end_broken(self, reason: str) -> None:
        """A fresh process gets a fresh context; but a job that is at its store is let go first."""
        try:
            self._fleet.fault(self._worker, f"probe:{os.getpid()}", reason)
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))
        self._broken = True
        if not self._busy:
            self._leave()

    def _run(self) -> None:
        while not self._ended.wait(_RETRY_SECONDS if self._untold else self._interval):
            self.probe()

    def _note(self, **facts: int) -> None:
        try:
            self._fleet.note(self._worker, **facts)
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))
