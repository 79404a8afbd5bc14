"""Metrics: the definition of each, and the instruments by which a process records them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    values,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from inference.version import __version__
from tasks.settings import metrics_folder, set_metrics_folder


class MetricSource(StrEnum):
    """Where a metric is shown."""

    #: What an API process counts itself, at the API's `/metrics`.
    API = "API"
    #: What Redis counts for all, at the API's `/metrics` too.
    REDIS = "API, from Redis"
    #: What only a model worker knows, at its own port.
    WORKER = "model worker"
    #: What only an I/O worker knows, at its own port.
    IO = "I/O worker"
    #: Every port.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Metric:
    """The definition of one metric.

    Attributes:
        name: in full, as PromQL names it, without a histogram's `_bucket`.
        source: where it is shown.
        text: its help text.
        labels: names of its labels.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    source: MetricSource
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """Return Prometheus's name of its kind."""
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"


#: Seconds of a request, from reading one record to waiting for a task's end.
REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

#: Seconds of a stage, from a small one on a GPU to a large model on a CPU.
STAGE_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

#: Seconds from submission to end, for interactive jobs and for bulk batches.
JOB_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

BUILD_INFO: Final = Metric(
    "rmbg_build_info", MetricSource.ALL, "1, with the running version as a label.", ("version",)
)

# Counted by an API process.
HTTP_REQUESTS: Final = Metric(
    "rmbg_http_requests_total",
    MetricSource.API,
    "Requests answered; `route` is the pattern, not the path.",
    ("method", "route", "status"),
)
HTTP_SECONDS: Final = Metric(
    "rmbg_http_request_seconds",
    MetricSource.API,
    "Time from a request to its response.",
    ("method", "route"),
    REQUEST_BUCKETS,
)
CACHE: Final = Metric(
    "rmbg_cache_total",
    MetricSource.API,
    "Cache lookups: `level` is memory (of one process), then redis; `result` is hit or miss.",
    ("level", "result"),
)

# Read from Redis at each scrape of the API.
JOINED: Final = Metric(
    "rmbg_joined_total",
    MetricSource.REDIS,
    "Duplicates: jobs that waited for an equal job that was already queued or running.",
)
JOBS: Final = Metric(
    "rmbg_jobs_total",
    MetricSource.REDIS,
    "Jobs that ended; `worker` ran them last.",
    ("status", "format", "model", "worker"),
)
JOB_SECONDS: Final = Metric(
    "rmbg_job_seconds",
    MetricSource.REDIS,
    "Time from a job's submission to its end.",
    buckets=JOB_BUCKETS,
)
ATTEMPTS: Final = Metric("rmbg_attempts_total", MetricSource.REDIS, "Attempts at jobs.")
CRASHES: Final = Metric(
    "rmbg_crashes_total", MetricSource.REDIS, "Attempts during which the child process died."
)
LOSSES: Final = Metric(
    "rmbg_losses_total",
    MetricSource.REDIS,
    "Attempts that were lost with their worker, host or server.",
)
RECOVERED: Final = Metric(
    "rmbg_recovered_total",
    MetricSource.REDIS,
    "Jobs that the reconciler put back on their way; `by` is the reason.",
    ("by",),
)
SKIPPED: Final = Metric(
    "rmbg_skipped_total",
    MetricSource.REDIS,
    "Jobs that the reconciler quarantined, since their record is damaged; see `jobs stuck`.",
    ("step",),
)
DUPLICATES: Final = Metric(
    "rmbg_duplicates_refused_total",
    MetricSource.REDIS,
    "Duplicate messages and late writes that changed nothing.",
)
QUEUE_DEPTH: Final = Metric(
    "rmbg_queue_depth", MetricSource.REDIS, "Jobs that wait in a queue.", ("queue", "priority")
)
OLDEST_QUEUED: Final = Metric(
    "rmbg_oldest_queued_seconds",
    MetricSource.REDIS,
    "Waiting time of the oldest queued job; 0 if none waits.",
)
PENDING: Final = Metric(
    "rmbg_pending", MetricSource.REDIS, "Jobs that wait or run; limited by RMBG_MAX_PENDING."
)
PROCESSING: Final = Metric("rmbg_processing", MetricSource.REDIS, "Jobs that run.")
DEAD_LETTERS: Final = Metric(
    "rmbg_dead_letters",
    MetricSource.REDIS,
    "Dead letters: jobs that were given up, until an operator requeues or drops them.",
)
WEBHOOK_ATTEMPTS: Final = Metric(
    "rmbg_webhook_attempts_total",
    MetricSource.REDIS,
    "Attempts to deliver a webhook: delivered, or why not.",
    ("outcome",),
)
WEBHOOK_PENDING: Final = Metric(
    "rmbg_webhook_pending", MetricSource.REDIS, "Webhooks that are pending."
)
WEBHOOK_DEAD: Final = Metric(
    "rmbg_webhook_dead",
    MetricSource.REDIS,
    "Webhooks that were given up, until they are sent again or dropped, or their tasks expire.",
)
WORKER_UP: Final = Metric(
    "rmbg_worker_up",
    MetricSource.REDIS,
    "1 while a model worker is alive and ready.",
    ("worker", "gpu", "model"),
)
WORKER_DRAINED: Final = Metric(
    "rmbg_worker_drained",
    MetricSource.REDIS,
    "1 while a worker is drained; `by` is operator, or service after consecutive GPU faults.",
    ("worker", "by"),
)
RETENTION_PAUSED: Final = Metric(
    "rmbg_retention_paused",
    MetricSource.REDIS,
    "1 while nothing is erased, since a clock has jumped or two clocks differ.",
)
REDIS_UP: Final = Metric(
    "rmbg_redis_up", MetricSource.REDIS, "1 if Redis answers and is no replica."
)
STORE_UP: Final = Metric("rmbg_store_up", MetricSource.REDIS, "1 if the object store answers.")
STORE_FULL: Final = Metric(
    "rmbg_store_full",
    MetricSource.REDIS,
    "1 while nothing new is accepted for want of room; `store` is redis, disk or objects.",
    ("store",),
)
CELERY_QUEUE_LENGTH: Final = Metric(
    "celery_queue_length",
    MetricSource.REDIS,
    "Messages in the broker's lists of a queue.",
    ("queue_name",),
)

# Counted by a model worker.
STAGE_SECONDS: Final = Metric(
    "rmbg_stage_seconds",
    MetricSource.WORKER,
    "Duration of each stage of a job.",
    ("stage",),
    STAGE_BUCKETS,
)
INFERENCE_SECONDS: Final = Metric(
    "rmbg_inference_seconds",
    MetricSource.WORKER,
    "Duration of inference; `status` is ok or error.",
    ("model", "worker", "status"),
    STAGE_BUCKETS,
)
MODEL_LOAD_SECONDS: Final = Metric(
    "rmbg_model_load_seconds",
    MetricSource.WORKER,
    "Duration of the last loading and warm-up of the model.",
    ("model", "worker"),
)
MODEL_LOADS: Final = Metric(
    "rmbg_model_loads_total",
    MetricSource.WORKER,
    "Loadings of the model, one for each child process.",
    ("model", "worker"),
)
GPU_MEMORY: Final = Metric(
    "rmbg_gpu_memory_bytes",
    MetricSource.WORKER,
    "Memory of the GPU; `memory` is used or total.",
    ("worker", "gpu", "memory"),
)
GPU_UTILISATION: Final = Metric(
    "rmbg_gpu_utilisation",
    MetricSource.WORKER,
    "Utilization of the GPU, 0 to 1.",
    ("worker", "gpu"),
)

# Counted by an I/O worker.
CELERY_EVENTS: Final = Metric(
    "celery_task_events_total",
    MetricSource.IO,
    "Celery's task events (sent, received, started, succeeded, …); some get lost.",
    ("event", "hostname"),
)
CELERY_RUNTIME: Final = Metric(
    "celery_task_runtime",
    MetricSource.IO,
    "Runtime of a task as measured by Celery, without waiting and retries.",
    ("hostname",),
    STAGE_BUCKETS,
)
CELERY_WORKER_UP: Final = Metric(
    "celery_worker_up", MetricSource.IO, "1 while a Celery worker sends heartbeats.", ("hostname",)
)

#: All metrics, in the order of the documentation.
METRICS: Final = tuple(each for each in tuple(globals().values()) if isinstance(each, Metric))

_FOLDER_PARENT: Final = "rmbg-metrics-"
#: A write to a mapped file for which there is no room ends the process (SIGBUS).
_LEAST_MEMORY_BYTES: Final = 16 * 2**20


class Instruments:
    """All instruments of a process; one that it never uses is not shown."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.http_requests = _counter(HTTP_REQUESTS, registry)
        self.http_seconds = _histogram(HTTP_SECONDS, registry)
        self.cache = _counter(CACHE, registry)
        self.stage_seconds = _histogram(STAGE_SECONDS, registry)
        self.inference_seconds = _histogram(INFERENCE_SECONDS, registry)
        self.model_load_seconds = _gauge(MODEL_LOAD_SECONDS, registry)
        self.model_loads = _counter(MODEL_LOADS, registry)
        self.celery_events = _counter(CELERY_EVENTS, registry)
        self.celery_runtime = _histogram(CELERY_RUNTIME, registry)
        self.celery_worker_up = _gauge(CELERY_WORKER_UP, registry)


def _counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    return Counter(metric.name, metric.text, metric.labels, registry=registry)


def _histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    return Histogram(
        metric.name, metric.text, metric.labels, registry=registry, buckets=metric.buckets
    )


def _gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    return Gauge(
        metric.name,
        metric.text,
        metric.labels,
        registry=registry,
        # Of several processes, the latest value counts.
        multiprocess_mode="mostrecent",
    )


@cache
def instruments() -> Instruments:
    """Return this process's instruments, created at first use; `use_shared_folder` comes before."""
    # The time of a counter's creation would be shown only without a shared folder.
    disable_created_metrics()  # type: ignore[no-untyped-call] # of the library
    return Instruments()


def memory_folder() -> Path | None:
    """Return the folder of files in memory; None where this user has none, or too little room."""
    folder = Path("/dev/shm")  # noqa: S108 - what is put there gets a name of its own
    try:
        room = shutil.disk_usage(folder).free >= _LEAST_MEMORY_BYTES
    except OSError:
        return None
    return folder if room and os.access(folder, os.W_OK | os.X_OK) else None


def make_shared_folder() -> Path:
    """Create the folder in which this process's children count, and name it in the environment.

    It is in memory where possible, since each count is a write to a mapped file.
    """
    parent = memory_folder() or Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PARENT}{os.getpid()}-", dir=parent))
    set_metrics_folder(folder)
    return folder


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in parent.glob(f"{_FOLDER_PARENT}*-*"):
        pid = folder.name.removeprefix(_FOLDER_PARENT).partition("-")[0]
        # In a container a restarted process has the same pid.
        if pid == str(os.getpid()) or not _process_is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _process_is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remove_shared_folder() -> None:
    """Remove this process's folder, when it ends."""
    folder = metrics_folder()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        set_metrics_folder(None)


def use_shared_folder(identifier: Callable[[], int | str] = os.getpid) -> None:
    """Count in the shared folder, if this process was given one.

    `identifier` names this process's files, which stay when it ends. A process that replaces
    another one continues under its name, so that restarts do not fill the folder.
    """
    if metrics_folder() is None:
        return
    # Set here, since the library checks for the folder only when it is imported.
    values.ValueClass = values.MultiProcessValue(identifier)  # type: ignore[no-untyped-call] # of the library
    instruments.cache_clear()


class BuildInfo(Collector):
    """Shows the running version."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield one sample."""
        family = gauge_family(BUILD_INFO)
        family.add_metric([__version__], 1)
        yield family


def gauge_family(metric: Metric) -> GaugeMetricFamily:
    """Return an empty family for a collector that reads its values elsewhere."""
    return GaugeMetricFamily(metric.name, metric.text, labels=metric.labels)


def scrape_registry(*more: Collector) -> CollectorRegistry:
    """Return what a scrape shows: what this process and its children counted, and `more`."""
    registry = CollectorRegistry()
    folder = metrics_folder()
    if folder is None:
        registry.register(instruments().registry)
    else:
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call] # of the library
    for collector in (BuildInfo(), *more):
        registry.register(collector)
    return registry
