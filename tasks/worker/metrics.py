"""A worker's metrics: its port, its GPU, and the events of Celery."""

import errno
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

import structlog
from celery import bootsteps
from kombu.exceptions import OperationalError
from prometheus_client import start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from tasks import metrics
from tasks.jobs import routing
from tasks.metrics import (
    Instruments,
    gauge_family,
    instruments,
    make_shared_folder,
    remove_shared_folder,
    scrape_registry,
    use_shared_folder,
)
from tasks.settings import Settings, visible_gpus

#: The name of the child's metrics files: a new child continues in those of the former one.
_CHILD_NAME: Final = "child"
#: A worker without a heartbeat for longer counts as gone.
_WORKER_GONE_SECONDS: Final = 10.0
_EVENTS_PAUSE_SECONDS: Final = 2.0
_TASK_EVENTS: Final = frozenset(
    {
        "task-sent",
        "task-received",
        "task-started",
        "task-succeeded",
        "task-failed",
        "task-rejected",
        "task-retried",
        "task-revoked",
    }
)

_log = structlog.get_logger(__name__)


class GpuCollector(Collector):
    """Shows memory and utilization of the worker's GPU.

    Args:
        nvml: the library `pynvml`, initialized.
        worker: Celery's name of this worker.
        gpus: the GPU's index or UUID, as CUDA_VISIBLE_DEVICES has it.
    """

    def __init__(self, nvml: Any, worker: str, gpus: Iterable[str]) -> None:  # noqa: ANN401 - a module
        self._nvml = nvml
        self._worker = worker
        self._gpus = tuple(gpus)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the families of one scrape; a GPU that does not answer is left out."""
        memory = gauge_family(metrics.GPU_MEMORY)
        busy = gauge_family(metrics.GPU_UTILISATION)
        for gpu in self._gpus:
            with suppress(self._nvml.NVMLError):
                handle = self._handle(gpu)
                facts = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                memory.add_metric([self._worker, gpu, "used"], facts.used)
                memory.add_metric([self._worker, gpu, "total"], facts.total)
                percent = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                busy.add_metric([self._worker, gpu], percent / 100)
        yield memory
        yield busy

    def _handle(self, gpu: str) -> Any:  # noqa: ANN401 - the library's
        if gpu.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(gpu))
        return self._nvml.nvmlDeviceGetHandleByUUID(gpu)


def gpu_collectors(worker: str) -> tuple[Collector, ...]:
    """Return the collector of this worker's GPU, if it has one and `pynvml` is installed."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
        gpus = visible_gpus() or tuple(map(str, range(nvml.nvmlDeviceGetCount())))
    except nvml.NVMLError as error:
        _log.debug("metrics.no_gpu", reason=str(error))
        return ()
    return (GpuCollector(nvml, worker, gpus[:1]),) if gpus else ()


class MetricsStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Serves the worker's metrics, if it has a port for them."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._settings = Settings.load()
        self._server: Any = None
        self._prefork = worker.pool_cls.__module__.endswith("prefork")
        if self._prefork:
            # Before the pool starts its child, which reads the folder from its environment.
            make_shared_folder()

    def start(self, worker: Any) -> None:  # noqa: ANN401 - celery's signature
        """Start listening; if the port is taken, the worker goes on without it."""
        port = self._settings.metrics_port
        if not port:
            return
        more = gpu_collectors(worker.hostname) if routing.is_model_worker(worker.app) else ()
        try:
            self._server, _ = start_http_server(
                port, addr=self._settings.metrics_address, registry=scrape_registry(*more)
            )
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            advice = "set RMBG_METRICS_PORT to a free one" if taken else "see RMBG_METRICS_ADDRESS"
            _log.error("metrics.not_served", port=port, reason=str(error), advice=advice)

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def terminate(self, worker: Any) -> None:  # noqa: ANN401 - celery's signature
        """Stop listening, and remove the folder of the child that has ended."""
        self.stop(worker)
        if self._prefork:
            remove_shared_folder()


def share_as_child() -> None:
    """Let a child continue in the files of the former one."""
    use_shared_folder(_CHILD_NAME)


def count_load(model: str, worker: str, seconds: float) -> None:
    """Count the loading of a model by a child."""
    instruments().model_loads.labels(model, worker).inc()
    instruments().model_load_seconds.labels(model, worker).set(seconds)


class CeleryEventCounter:
    """Counts Celery's events, which are lossy; no label comes from a client."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._seen: dict[str, float] = {}

    def count(self, event: Mapping[str, Any]) -> None:
        """Count one event."""
        kind, host = str(event.get("type")), str(event.get("hostname", ""))
        if kind in _TASK_EVENTS:
            self._instruments.celery_events.labels(kind.removeprefix("task-"), host).inc()
        if kind == "task-succeeded":
            self._instruments.celery_runtime.labels(host).observe(float(event.get("runtime") or 0))
        if kind.startswith("worker-"):
            self._record(host, online=kind != "worker-offline")

    def _record(self, host: str, *, online: bool) -> None:
        now = time.monotonic()
        self._seen[host] = now if online else 0.0
        for each, seen in self._seen.items():
            self._instruments.celery_worker_up.labels(each).set(now - seen < _WORKER_GONE_SECONDS)


class CeleryEventsStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs a thread of the I/O worker that listens to the events of all workers."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._receiver: Any = None

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - celery's signature
        """Run only on I/O workers whose metrics port serves the counts."""
        return bool(Settings.load().metrics_port) and routing.is_io_worker(worker.app)

    def start(self, worker: Any) -> None:  # noqa: ANN401 - celery's signature
        """Start listening."""
        threading.Thread(
            target=self._run, args=(worker.app,), name="celery-events", daemon=True
        ).start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """Stop listening."""
        self._ended.set()
        if self._receiver is not None:
            self._receiver.should_stop = True

    terminate = stop

    def _run(self, app: Any) -> None:  # noqa: ANN401 - celery's signature
        counter = CeleryEventCounter(instruments())
        while not self._ended.is_set():
            try:
                self._listen(app, counter)
            except (OperationalError, RedisError, OSError) as error:
                _log.warning("events.broker_away", reason=str(error))
            self._ended.wait(_EVENTS_PAUSE_SECONDS)

    def _listen(self, app: Any, counter: CeleryEventCounter) -> None:  # noqa: ANN401 - celery's signature
        with app.connection_for_read() as connection:
            self._receiver = app.events.Receiver(connection, handlers={"*": counter.count}, app=app)
            self._receiver.capture(limit=None, timeout=None, wakeup=False)
