"""Counts the stages of jobs as they end, so that even a process that dies has counted them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from inference.stages import StageTimer
from tasks.jobs import Job
from tasks.meters import meters
from tasks.tracing import span

_INFERENCE: Final = "inference"
_QUEUE: Final = "queue"


class MeteredTimer(StageTimer):
    """A `StageTimer` that tells Prometheus too.

    Args:
        job: as it was claimed.
        model: the model's name.
        worker: Celery's name of this worker.
        before: see `StageTimer`.
    """

    def __init__(self, job: Job, model: str, worker: str, before: Callable[[str], None]) -> None:
        super().__init__(before)
        self._labels = (model, worker)
        if job.attempts == 1 and job.started_at is not None:
            waited = max(0.0, job.started_at - job.created_at)
            meters().stage_seconds.labels(_QUEUE).observe(waited)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure one stage for as long as the context lasts."""
        with super().__call__(stage), span(stage):
            began, status = perf_counter(), "error"
            try:
                yield
                status = "ok"
            finally:
                self._count(stage, status, perf_counter() - began)

    def _count(self, stage: str, status: str, seconds: float) -> None:
        meters().stage_seconds.labels(stage).observe(seconds)
        if stage == _INFERENCE:
            meters().inference_seconds.labels(*self._labels, status).observe(seconds)
