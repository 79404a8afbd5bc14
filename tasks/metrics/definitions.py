"""The definition of every metric: name, kind, labels, buckets and help text.

No Prometheus client is imported here: `instruments` counts what a process sees itself, and
`queue_metrics` reads what Redis counts. No label's value is chosen by a client.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Final


class MetricKind(StrEnum):
    """The kinds of metrics that Prometheus knows."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


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
        kind: of its value.
        source: where it is shown.
        text: its help text.
        labels: names of its labels.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    kind: MetricKind
    source: MetricSource
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names of its time series."""
        if self.kind is MetricKind.HISTOGRAM:
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)


#: Seconds of a request, from reading one record to waiting for a task's end.
REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Seconds of a stage, from a small one on a GPU to a large model on a CPU.
STAGE_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: Seconds from submission to end, for interactive jobs and for bulk batches.
JOB_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

BUILD_INFO: Final = Metric(
    "rmbg_build_info",
    MetricKind.GAUGE,
    MetricSource.ALL,
    "1, with the running version as a label.",
    ("version",),
)

HTTP_REQUESTS: Final = Metric(
    "rmbg_http_requests_total",
    MetricKind.COUNTER,
    MetricSource.API,
    "Requests answered; `route` is the pattern, not the path.",
    ("method", "route", "status"),
)
HTTP_SECONDS: Final = Metric(
    "rmbg_http_request_seconds",
    MetricKind.HISTOGRAM,
    MetricSource.API,
    "Time from a request to its response.",
    ("method", "route"),
    REQUEST_BUCKETS,
)

CACHE: Final = Metric(
    "rmbg_cache_total",
    MetricKind.COUNTER,
    MetricSource.API,
    "Cache lookups: `level` is memory (of one process), then redis; `result` is hit or miss.",
    ("level", "result"),
)
JOINED: Final = Metric(
    "rmbg_joined_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Duplicates: jobs that waited for an equal job that was already queued or running.",
)

JOBS: Final = Metric(
    "rmbg_jobs_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Jobs that ended; `worker` ran them last.",
    ("status", "format", "model", "worker"),
)
JOB_SECONDS: Final = Metric(
    "rmbg_job_seconds",
    MetricKind.HISTOGRAM,
    MetricSource.REDIS,
    "Time from a job's submission to its end.",
    buckets=JOB_BUCKETS,
)
ATTEMPTS: Final = Metric(
    "rmbg_attempts_total", MetricKind.COUNTER, MetricSource.REDIS, "Attempts at jobs."
)
CRASHES: Final = Metric(
    "rmbg_crashes_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Attempts during which the child process died.",
)
LOSSES: Final = Metric(
    "rmbg_losses_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Attempts that were lost with their worker, host or server.",
)
RECOVERED: Final = Metric(
    "rmbg_recovered_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Jobs that the reconciler put back on their way; `by` is the reason.",
    ("by",),
)
SKIPPED: Final = Metric(
    "rmbg_skipped_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Jobs that the reconciler quarantined, since their record is damaged; see `jobs stuck`.",
    ("step",),
)
DUPLICATES: Final = Metric(
    "rmbg_duplicates_refused_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Duplicate messages and late writes that changed nothing.",
)
QUEUE_DEPTH: Final = Metric(
    "rmbg_queue_depth",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Jobs that wait in a queue.",
    ("queue", "priority"),
)
OLDEST_QUEUED: Final = Metric(
    "rmbg_oldest_queued_seconds",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Waiting time of the oldest queued job; 0 if none waits.",
)
PENDING: Final = Metric(
    "rmbg_pending",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Jobs that wait or run; limited by RMBG_MAX_PENDING.",
)
PROCESSING: Final = Metric(
    "rmbg_processing", MetricKind.GAUGE, MetricSource.REDIS, "Jobs that run."
)
DEAD_LETTERS: Final = Metric(
    "rmbg_dead_letters",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Dead letters: jobs that were given up, until an operator requeues or drops them.",
)
WEBHOOK_ATTEMPTS: Final = Metric(
    "rmbg_webhook_attempts_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Attempts to deliver a webhook: delivered, or why not.",
    ("outcome",),
)
WEBHOOK_PENDING: Final = Metric(
    "rmbg_webhook_pending",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Webhooks that are pending.",
)
WORKER_UP: Final = Metric(
    "rmbg_worker_up",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "1 while a model worker is alive and ready.",
    ("worker", "gpu", "model"),
)
WORKER_DRAINED: Final = Metric(
    "rmbg_worker_drained",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "1 while a worker is drained; `by` is operator, or service after consecutive GPU faults.",
    ("worker", "by"),
)
REDIS_UP: Final = Metric(
    "rmbg_redis_up", MetricKind.GAUGE, MetricSource.REDIS, "1 if Redis answers."
)
STORE_UP: Final = Metric(
    "rmbg_store_up", MetricKind.GAUGE, MetricSource.REDIS, "1 if the object store answers."
)
CELERY_QUEUE_LENGTH: Final = Metric(
    "celery_queue_length",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Messages in the broker's lists of a queue.",
    ("queue_name",),
)

STAGE_SECONDS: Final = Metric(
    "rmbg_stage_seconds",
    MetricKind.HISTOGRAM,
    MetricSource.WORKER,
    "Duration of each stage of a job.",
    ("stage",),
    STAGE_BUCKETS,
)
INFERENCE_SECONDS: Final = Metric(
    "rmbg_inference_seconds",
    MetricKind.HISTOGRAM,
    MetricSource.WORKER,
    "Duration of inference; `status` is ok or error.",
    ("model", "worker", "status"),
    STAGE_BUCKETS,
)
MODEL_LOAD_SECONDS: Final = Metric(
    "rmbg_model_load_seconds",
    MetricKind.GAUGE,
    MetricSource.WORKER,
    "Duration of the last loading and warm-up of the model.",
    ("model", "worker"),
)
MODEL_LOADS: Final = Metric(
    "rmbg_model_loads_total",
    MetricKind.COUNTER,
    MetricSource.WORKER,
    "Loadings of the model, one for each child process.",
    ("model", "worker"),
)
GPU_MEMORY: Final = Metric(
    "rmbg_gpu_memory_bytes",
    MetricKind.GAUGE,
    MetricSource.WORKER,
    "Memory of the GPU; `memory` is used or total.",
    ("worker", "gpu", "memory"),
)
GPU_UTILISATION: Final = Metric(
    "rmbg_gpu_utilisation",
    MetricKind.GAUGE,
    MetricSource.WORKER,
    "Utilization of the GPU, 0 to 1.",
    ("worker", "gpu"),
)

CELERY_EVENTS: Final = Metric(
    "celery_task_events_total",
    MetricKind.COUNTER,
    MetricSource.IO,
    "Celery's task events (sent, received, started, succeeded, …); some get lost.",
    ("event", "hostname"),
)
CELERY_RUNTIME: Final = Metric(
    "celery_task_runtime",
    MetricKind.HISTOGRAM,
    MetricSource.IO,
    "Runtime of a task as measured by Celery, without waiting and retries.",
    ("hostname",),
    STAGE_BUCKETS,
)
CELERY_WORKER_UP: Final = Metric(
    "celery_worker_up",
    MetricKind.GAUGE,
    MetricSource.IO,
    "1 while a Celery worker sends heartbeats.",
    ("hostname",),
)

#: All metrics, in the order of the documentation.
METRICS: Final = (
    BUILD_INFO,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    CACHE,
    JOINED,
    JOBS,
    JOB_SECONDS,
    ATTEMPTS,
    CRASHES,
    LOSSES,
    RECOVERED,
    SKIPPED,
    DUPLICATES,
    QUEUE_DEPTH,
    OLDEST_QUEUED,
    PENDING,
    PROCESSING,
    DEAD_LETTERS,
    WEBHOOK_ATTEMPTS,
    WEBHOOK_PENDING,
    WORKER_UP,
    WORKER_DRAINED,
    REDIS_UP,
    STORE_UP,
    CELERY_QUEUE_LENGTH,
    STAGE_SECONDS,
    INFERENCE_SECONDS,
    MODEL_LOAD_SECONDS,
    MODEL_LOADS,
    GPU_MEMORY,
    GPU_UTILISATION,
    CELERY_EVENTS,
    CELERY_RUNTIME,
    CELERY_WORKER_UP,
)


def series(metrics: Sequence[Metric] = METRICS) -> frozenset[str]:
    """Return the names of all time series."""
    return frozenset(chain.from_iterable(metric.series for metric in metrics))
