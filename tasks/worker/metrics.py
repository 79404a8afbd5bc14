"""A worker's metrics: its port, its GPU, and the events of Celery."""

import errno
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, NamedTuple

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
    gauge_family,
    instruments,
    make_shared_folder,
    remove_shared_folder,
    scrape_registry,
)
from tasks.settings import Settings, visible_gpus

#: A worker without a heartbeat for longer counts as gone.
_WORKER_GONE_SECONDS: Final = 10.0
_EVENTS_PAUSE_SECONDS: Final = 2.0
_TASK_EVENTS: Final = frozenset(
    {"sent", "received", "started", "succeeded", "failed", "rejected", "retried", "revoked"}
)

_log = structlog.get_logger(__name__)


class GpuReading(NamedTuple):
    """What a GPU's driver says of it: bytes of its memory, and how busy it is, 0 to 1."""

    used: int
    total: int
    busy: float


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU whose load can be read."""

    #: The library `pynvml`, initialized.
    nvml: Any
    #: Its index or UUID, as CUDA_VISIBLE_DEVICES has it.
    name: str

    def read(self) -> GpuReading | None:
        """Return its load, that of all processes; None while it does not answer."""
        nvml = self.nvml
        try:
            if self.name.isdigit():
                handle = nvml.nvmlDeviceGetHandleByIndex(int(self.name))
            else:
                handle = nvml.nvmlDeviceGetHandleByUUID(self.name)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            percent = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        except nvml.NVMLError:
            return None
        return GpuReading(memory.used, memory.total, percent / 100)


def find_gpu(device: str) -> Gpu | None:
    """Return the GPU of a device that a model runs on, if it has one and `pynvml` is installed.

    Args:
        device: auto, cpu, cuda or cuda:N, which counts the GPUs that CUDA is limited to.
    """
    if device == "cpu":
        return None
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        gpus = visible_gpus() or tuple(map(str, range(nvml.nvmlDeviceGetCount())))
    except nvml.NVMLError as error:
        _log.debug("metrics.no_gpu", reason=str(error))
        return None
    number = device.partition(":")[2]
    index = int(number) if number.isdecimal() else 0
    return Gpu(nvml, gpus[index]) if index < len(gpus) else None


@dataclass(frozen=True, slots=True)
class GpuCollector(Collector):
    """Shows memory and utilization of a worker's GPU."""

    worker: str
    gpu: Gpu

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the families of one scrape, without samples while the GPU does not answer."""
        memory = gauge_family(metrics.GPU_MEMORY)
        busy = gauge_family(metrics.GPU_UTILISATION)
        if reading := self.gpu.read():
            labels = [self.worker, self.gpu.name]
            memory.add_metric([*labels, "used"], reading.used)
            memory.add_metric([*labels, "total"], reading.total)
            busy.add_metric(labels, reading.busy)
        yield memory
        yield busy


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
        is_model_worker = routing.is_model_worker(worker.app)
        gpu = find_gpu(self._settings.device) if is_model_worker else None
        more = (GpuCollector(worker.hostname, gpu),) if gpu else ()
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


class CeleryEventsStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs a thread of the I/O worker that counts the events of all workers, which are lossy."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._receiver: Any = None
        #: When each worker was last heard of; 0 once it has gone offline.
        self._seen: dict[str, float] = {}

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
        while not self._ended.is_set():
            try:
                self._listen(app)
            except (OperationalError, RedisError, OSError) as error:
                _log.warning("events.broker_away", reason=str(error))
            self._ended.wait(_EVENTS_PAUSE_SECONDS)

    def _listen(self, app: Any) -> None:  # noqa: ANN401 - celery's signature
        with app.connection_for_read() as connection:
            self._receiver = app.events.Receiver(connection, handlers={"*": self._count}, app=app)
            self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def _count(self, event: Mapping[str, Any]) -> None:
        host = str(event.get("hostname", ""))
        kind, _, name = str(event.get("type")).partition("-")
        if kind == "task" and name in _TASK_EVENTS:
            instruments().celery_events.labels(name, host).inc()
        if kind == "task" and name == "succeeded":
            instruments().celery_runtime.labels(host).observe(float(event.get("runtime") or 0))
        if kind == "worker":
            now = time.monotonic()
            self._seen[host] = 0.0 if name == "offline" else now
            for each, seen in self._seen.items():
                instruments().celery_worker_up.labels(each).set(now - seen < _WORKER_GONE_SECONDS)
