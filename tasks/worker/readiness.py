"""Readiness: the child probes its model while that is idle, and says in Redis that it answers."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, process_time
from typing import Final

import numpy as np
import structlog

from inference.errors import GpuFaultError, InferenceError
from inference.models.base import HasExecutionPath, HasGpuMemory, MattingModel
from tasks.errors import QueueUnavailableError
from tasks.redis_client import logged_if_away
from tasks.worker.runner import Runner

_PROBE_PIXELS: Final = 64
#: Weight of the newest job in the running mean of a job's seconds.
_NEWEST_WEIGHT: Final = 0.3
#: The pause before the next announcement if Redis did not take the last one.
_RETRY_SECONDS: Final = 2.0
#: The share of a core that probes of an idle model may use: on a CPU one costs as much as a
#: picture.
_PROBE_SHARE: Final = 0.005
#: A probe that is due within this is made at once instead of one interval later.
_EARLY_SECONDS: Final = 1.0
#: A model that does not answer is found after this time even if a probe costs minutes of a core.
_MAX_PROBE_SECONDS: Final = 300.0

_log = structlog.get_logger(__name__)


class Readiness:
    """Probes a runner's model while it is idle, and marks the worker as ready while it answers.

    A job's result is an answer too. An answer counts until the next probe, and then as long as a
    job may keep that one waiting.

    Args:
        runner: whose model it is.
        revision: of the model's weights; empty if it is not known.
        seconds: how long an answer counts at least. Longer than a job may take, since no probe is
            made during a job: the time limit bounds that one.
        interval: seconds from one announcement in Redis to the next, and from one probe to the next
            of a model that costs this machine's processors little.
    """

    def __init__(
        self, runner: Runner, *, revision: str = "", seconds: float, interval: float
    ) -> None:
        self._registry = runner.registry
        self._model = runner.model
        self._lock = runner.model_lock
        self._worker = runner.worker
        self._exit_child = runner.exit_child
        self._seconds = seconds
        self._interval = interval
        #: Told with each answer: Redis may take no write while the model loads.
        self._facts = {"revision": revision, **execution_path_facts(runner.model)}
        self._mean: float | None = None
        self._answered_at = monotonic()
        #: Seconds of processor time that the last probe took.
        self._cost = 0.0
        self._unreported = False
        self._busy = False
        self._broken = False
        self._ended = threading.Event()

    def start(self) -> None:
        """Mark the worker as ready, then probe the model from a thread."""
        self.mark_ready()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def begin_job(self) -> None:
        """Record that a job begins."""
        self._busy = True
        with logged_if_away("worker.note_failed"):
            self._registry.update(self._worker, running=1)

    def end_job(self, took: float | None) -> None:
        """Record that a job is over; it took so many seconds, None if the model made no result."""
        self._busy = False
        if self._broken:
            self._exit_child()
        if took is None:
            with logged_if_away("worker.note_failed"):
                self._registry.update(self._worker, running=0)
            # Jobs that end without the model, one after the other as while the object store hangs,
            # leave it no idle moment, and a child that gives no answer is replaced.
            if self._probe_is_due():
                self.probe()
            return
        self._mean = (
            took if self._mean is None else self._mean + _NEWEST_WEIGHT * (took - self._mean)
        )
        self._answered_at = monotonic()
        # Until a probe was timed: it costs about as much as a job.
        self._cost = self._cost or took
        mean = self._mean
        self._announce(
            lambda seconds, _ago, **facts: self._registry.record_result(
                self._worker, mean, ready_seconds=seconds, **facts
            )
        )

    @property
    def probe_seconds(self) -> float:
        """How long after an answer an idle model is probed."""
        return max(self._interval, min(self._cost / _PROBE_SHARE, _MAX_PROBE_SECONDS))

    def mark_ready(self) -> None:
        """Record that the model has just answered."""
        self._answered_at = monotonic()
        self.repeat_answer()

    def repeat_answer(self) -> None:
        """Write the latest answer to Redis, which may have lost it, for as long as it counts."""
        self._announce(
            lambda seconds, ago, **facts: self._registry.mark_ready(
                self._worker, seconds, ago=ago, **facts
            )
        )

    def _announce(self, write: Callable[..., None]) -> None:
        """Write an answer: for how many seconds it counts, how old it is, and the model's facts.

        That a job runs, or none, is among them: Redis may have been away when one began or ended.
        """
        ago = monotonic() - self._answered_at
        seconds = self._seconds + self.probe_seconds - self._interval - ago
        facts = {
            "model": self._model.name,
            "pid": os.getpid(),
            "running": int(self._busy),
            **self._facts,
        }
        try:
            write(seconds, ago, **facts, **_gpu_memory_facts(self._model))
        except QueueUnavailableError as error:
            self._unreported = True
            _log.warning("worker.announce_failed", reason=str(error))
        else:
            self._unreported = False

    def stop(self) -> None:
        """Stop the probes, and mark the worker as not ready."""
        self._ended.set()
        with logged_if_away("worker.withdraw_failed"):
            self._registry.mark_not_ready(self._worker)

    def probe(self) -> None:
        """Run the model; without an answer the worker's readiness lapses."""
        try:
            with self._lock:
                began = process_time()
                self._model.matte([np.zeros((_PROBE_PIXELS, _PROBE_PIXELS, 3), np.uint8)])
                self._cost = process_time() - began
        except InferenceError as error:
            _log.error("worker.probe_failed", worker=self._worker, reason=str(error))
            if isinstance(error, GpuFaultError):
                self._end_broken(error.code)
        except Exception:  # noqa: BLE001 - the next probe may succeed
            _log.exception("worker.probe_failed", worker=self._worker)
        else:
            self.mark_ready()

    def _end_broken(self, reason: str) -> None:
        """End this process, since a new one gets a new context, as soon as no job is running."""
        with logged_if_away("worker.note_failed"):
            self._registry.record_fault(self._worker, f"probe:{os.getpid()}", reason)
        self._broken = True
        if not self._busy:
            self._exit_child()

    def _run(self) -> None:
        while not self._ended.wait(_RETRY_SECONDS if self._unreported else self._interval):
            self.keep_ready()

    def keep_ready(self) -> None:
        """Check the model if it is due and idle, or else repeat that it has answered."""
        if not self._probe_is_due():
            self.repeat_answer()
        elif not self._busy:
            self.probe()

    def _probe_is_due(self) -> bool:
        return monotonic() - self._answered_at >= self.probe_seconds - _EARLY_SECONDS


def execution_path_facts(model: MattingModel) -> dict[str, str]:
    """Return a model's execution path, and why it is not a faster one; empty if it has only one."""
    if not isinstance(model, HasExecutionPath):
        return {}
    return {"path": model.path, "path_reason": model.path_reason}


def _gpu_memory_facts(model: MattingModel) -> dict[str, int]:
    """Return what of its GPU's memory is in use; empty without a GPU, or if it does not say."""
    if not isinstance(model, HasGpuMemory):
        return {}
    with suppress(InferenceError, RuntimeError):  # the next job meets what is wrong with it
        if memory := model.gpu_memory():
            return {"gpu_used": memory[0], "gpu_total": memory[1]}
    return {}
