"""Prometheus instruments of this process and its children."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
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
from tasks.metrics import definitions
from tasks.metrics.definitions import Metric
from tasks.settings import metrics_folder, set_metrics_folder

_FOLDER_PARENT: Final = "rmbg-metrics-"


@dataclass(frozen=True, slots=True)
class Instruments:
    """All instruments of a process; one that it never uses is not shown."""

    registry: CollectorRegistry
    http_requests: Counter
    http_seconds: Histogram
    cache: Counter
    stage_seconds: Histogram
    inference_seconds: Histogram
    model_load_seconds: Gauge
    model_loads: Counter
    celery_events: Counter
    celery_runtime: Histogram
    celery_worker_up: Gauge

    @classmethod
    def make(cls) -> "Instruments":
        """Create all instruments in a registry of their own."""
        registry = CollectorRegistry()
        return cls(
            registry=registry,
            http_requests=_counter(definitions.HTTP_REQUESTS, registry),
            http_seconds=_histogram(definitions.HTTP_SECONDS, registry),
            cache=_counter(definitions.CACHE, registry),
            stage_seconds=_histogram(definitions.STAGE_SECONDS, registry),
            inference_seconds=_histogram(definitions.INFERENCE_SECONDS, registry),
            model_load_seconds=_gauge(definitions.MODEL_LOAD_SECONDS, registry),
            model_loads=_counter(definitions.MODEL_LOADS, registry),
            celery_events=_counter(definitions.CELERY_EVENTS, registry),
            celery_runtime=_histogram(definitions.CELERY_RUNTIME, registry),
            celery_worker_up=_gauge(definitions.CELERY_WORKER_UP, registry),
        )


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
    return Instruments.make()


def make_shared_folder() -> Path:
    """Create the folder in which this process's children count, and name it in the environment.

    It is in memory where possible, since each count is a write to a mapped file.
    """
    memory = Path("/dev/shm")  # noqa: S108 - the folder below it gets a name of its own
    parent = memory if memory.is_dir() else Path(tempfile.gettempdir())
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


def use_shared_folder(identifier: str | None = None) -> None:
    """Count in the shared folder, if this process was given one.

    Args:
        identifier: names this process's files. A process that replaces another one continues in
            its files, so that restarts do not fill the folder. Without it, each process has
            files of its own, which stay when it ends.
    """
    if metrics_folder() is None:
        return
    # Set here, since the library checks for the folder only when it is imported.
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call] # of the library
        os.getpid if identifier is None else lambda: identifier
    )
    instruments.cache_clear()


class BuildInfo(Collector):
    """Shows the running version."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield one sample."""
        family = gauge_family(definitions.BUILD_INFO)
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
