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

#: Code of an inference error: the GPU's memory is full, also after its cache was freed.
OUT_OF_MEMORY: Final = "gpu_out_of_memory"
#: Code of an inference error: the GPU's context is broken for the rest of this process.
GPU_FAULT: Final = "gpu_fault"
_PROBE_PIXELS: Final = 64
#: Weight of the newest job in the running mean of a job's seconds.
_NEWEST_WEIGHT: Final = 0.3
#: The pause before the next self-check if Redis did not take the last answer.
_RETRY_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class Readiness:
    """Checks the idle model, and marks the worker as ready while the model answers.

    Args:
        registry: the worker registry.
        model: loaded and warm.
        lock: held while the model runs.
        worker: Celery's name of this worker.
        seconds: how long an answer counts. Longer than a job may take, since no check is made
            during a job: the time limit bounds that one.
        interval: seconds from one check to the next.
        exit_child: ends this process, whose GPU context is broken.
    """

    def __init__(
        self,
        registry: WorkerRegistry,
        model: MattingModel,
        lock: threading.Lock,
        worker: str,
        *,
        seconds: float,
        interval: float,
        exit_child: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._model = model
        self._lock = lock
        self._worker = worker
        self._seconds = seconds
        self._interval = interval
        self._exit_child = exit_child
        self._path = execution_path_facts(model)
        self._mean: float | None = None
        self._unreported = False
        self._busy = False
        self._broken = False
        self._ended = threading.Event()

    def start(self) -> None:
        """Mark the worker as ready, then check the model from a thread."""
        self.mark_ready()
        threading.Thread(target=self._run, name="self-check", daemon=True).start()

    def begin_job(self) -> None:
        """Record that a job begins."""
        self._busy = True
        self._update(running=1)

    def end_job(self, took: float | None) -> None:
        """Record that a job is over.

        Args:
            took: its seconds; None if the model made no result.
        """
        self._busy = False
        if self._broken:
            self._exit_child()
        if took is None:
            self._update(running=0)
            return
        self._mean = (
            took if self._mean is None else self._mean + _NEWEST_WEIGHT * (took - self._mean)
        )
        try:
            self._registry.record_result(self._worker, self._mean)
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))
        self.mark_ready()

    def mark_ready(self) -> None:
        """Record that the model has just answered."""
        model, pid = self._model.name, os.getpid()
        try:
            self._registry.mark_ready(
                self._worker, self._seconds, model=model, pid=pid, **self._path
            )
        except QueueUnavailableError as error:
            self._unreported = True
            _log.warning("worker.announce_failed", reason=str(error))
        else:
            self._unreported = False

    def stop(self) -> None:
        """Stop the checks, and mark the worker as not ready."""
        self._ended.set()
        try:
            self._registry.mark_not_ready(self._worker)
        except QueueUnavailableError as error:
            _log.warning("worker.withdraw_failed", reason=str(error))

    def check(self) -> None:
        """Run the model; without an answer the worker's readiness lapses."""
        try:
            with self._lock:
                self._model.matte([np.zeros((_PROBE_PIXELS, _PROBE_PIXELS, 3), np.uint8)])
        except InferenceError as error:
            _log.error("worker.probe_failed", worker=self._worker, reason=str(error))
            if error.code == GPU_FAULT:
                self._end_broken(error.code)
        except Exception:  # noqa: BLE001 - the next check may succeed
            _log.exception("worker.probe_failed", worker=self._worker)
        else:
            self.mark_ready()

    def _end_broken(self, reason: str) -> None:
        """End this process, since a new one gets a new context, as soon as no job is running."""
        try:
            self._registry.record_fault(self._worker, f"probe:{os.getpid()}", reason)
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))
        self._broken = True
        if not self._busy:
            self._exit_child()

    def _run(self) -> None:
        while not self._ended.wait(_RETRY_SECONDS if self._unreported else self._interval):
            self.check()

    def _update(self, **facts: int) -> None:
        try:
            self._registry.update(self._worker, **facts)
        except QueueUnavailableError as error:
            _log.warning("worker.note_failed", reason=str(error))
