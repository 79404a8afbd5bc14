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
    """As Prometheus knows them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricSource(StrEnum):
    """Whose port shows a metric."""

    #: What an API process counts itself, at the API's `/metrics`.
    API = "API"
    #: What Redis counts for all, at the API's `/metrics` too.
    REDIS = "API, from Redis"
    #: What only a model worker knows, at its own port.
    WORKER = "model worker"
    #: What only an I/O worker knows, at its own port.
    IO = "I/O worker"
    #: The same at every port.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: in full, as PromQL names it, without a histogram's `_bucket`.
        kind: of its value.
        home: who shows it.
        text: what it says, for people.
        labels: by which it is split.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    kind: MetricKind
    home: MetricSource
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which its samples stand."""
        if self.kind is MetricKind.HISTOGRAM:
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)


#: Seconds: from a request that reads one record to one that waits for a task's end.
REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Seconds: from a GPU's milliseconds to a large model on a CPU.
STAGE_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: Seconds from the submission to the end: a person's wait, or a bulk batch's.
JOB_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

BUILD_INFO: Final = Metric(
    "rmbg_build_info", MetricKind.GAUGE, MetricSource.ALL, "1; the version that runs.", ("version",)
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
    "How long answering took.",
    ("method", "route"),
    REQUEST_BUCKETS,
)

CACHE: Final = Metric(
    "rmbg_cache_total",
    MetricKind.COUNTER,
    MetricSource.API,
    "Questions to the cache: `level` is memory (of one process), then redis; `result` hit or miss.",
    ("level", "result"),
)
JOINED: Final = Metric(
    "rmbg_joined_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Jobs that waited for an equal one that ran already.",
)

JOBS: Final = Metric(
    "rmbg_jobs_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Jobs that came to their end; `worker` had them last.",
    ("status", "format", "model", "worker"),
)
JOB_SECONDS: Final = Metric(
    "rmbg_job_seconds",
    MetricKind.HISTOGRAM,
    MetricSource.REDIS,
    "From a job's submission to its end.",
    buckets=JOB_BUCKETS,
)
ATTEMPTS: Final = Metric(
    "rmbg_attempts_total", MetricKind.COUNTER, MetricSource.REDIS, "Runs of jobs that were begun."
)
CRASHES: Final = Metric(
    "rmbg_crashes_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Runs that their process died over.",
)
LOSSES: Final = Metric(
    "rmbg_losses_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Runs that were lost by no picture's fault.",
)
RECOVERED: Final = Metric(
    "rmbg_recovered_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Jobs that the reconciler set going again, and why.",
    ("by",),
)
SKIPPED: Final = Metric(
    "rmbg_skipped_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Jobs whose record stopped a step of the reconciler; see `jobs stuck`.",
    ("step",),
)
DUPLICATES: Final = Metric(
    "rmbg_duplicates_refused_total",
    MetricKind.COUNTER,
    MetricSource.REDIS,
    "Second deliveries and late writes that changed nothing.",
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
    "How long the job that waits longest has waited; 0 if none waits.",
)
PENDING: Final = Metric(
    "rmbg_pending",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Jobs that wait or run; bound by RMBG_MAX_PENDING.",
)
PROCESSING: Final = Metric(
    "rmbg_processing", MetricKind.GAUGE, MetricSource.REDIS, "Jobs that run."
)
DEAD_LETTERS: Final = Metric(
    "rmbg_dead_letters",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "Jobs that were given up and not looked after.",
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
    "Webhooks that are still to be delivered.",
)
WORKER_UP: Final = Metric(
    "rmbg_worker_up",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "1 while a model worker lives and its model answers.",
    ("worker", "gpu", "model"),
)
WORKER_DRAINED: Final = Metric(
    "rmbg_worker_drained",
    MetricKind.GAUGE,
    MetricSource.REDIS,
    "1 while a worker is drained, and by whom: operator, or service after faults in a row.",
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
    "How long each stage of a job took.",
    ("stage",),
    STAGE_BUCKETS,
)
INFERENCE_SECONDS: Final = Metric(
    "rmbg_inference_seconds",
    MetricKind.HISTOGRAM,
    MetricSource.WORKER,
    "How long the model took; status is ok or error.",
    ("model", "worker", "status"),
    STAGE_BUCKETS,
)
MODEL_LOAD_SECONDS: Final = Metric(
    "rmbg_model_load_seconds",
    MetricKind.GAUGE,
    MetricSource.WORKER,
    "How long loading and warming up the model took, the last time.",
    ("model", "worker"),
)
MODEL_LOADS: Final = Metric(
    "rmbg_model_loads_total",
    MetricKind.COUNTER,
    MetricSource.WORKER,
    "How often a worker's process was started and loaded its model.",
    ("model", "worker"),
)
GPU_MEMORY: Final = Metric(
    "rmbg_gpu_memory_bytes",
    MetricKind.GAUGE,
    MetricSource.WORKER,
    "Memory of the GPU by what it is: used or total.",
    ("worker", "gpu", "memory"),
)
GPU_UTILISATION: Final = Metric(
    "rmbg_gpu_utilisation",
    MetricKind.GAUGE,
    MetricSource.WORKER,
    "Share of the last moments in which the GPU was busy, 0 to 1.",
    ("worker", "gpu"),
)

CELERY_EVENTS: Final = Metric(
    "celery_task_events_total",
    MetricKind.COUNTER,
    MetricSource.IO,
    "Events of tasks that were seen (sent, received, started, succeeded, …); some get lost.",
    ("event", "hostname"),
)
CELERY_RUNTIME: Final = Metric(
    "celery_task_runtime",
    MetricKind.HISTOGRAM,
    MetricSource.IO,
    "Seconds that Celery measured for a task, retries and waiting left out.",
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

#: All of them, in the order in which they are documented.
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
    """Every name that PromQL can ask for."""
    return frozenset(chain.from_iterable(metric.series for metric in metrics))
