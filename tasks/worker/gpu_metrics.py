"""What NVIDIA's library tells of this worker's GPU, asked at each scrape.

`nvidia-ml-py` comes with the extra `gpu`; without it, or without a GPU, nothing is shown.
"""

from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tasks import metrics
from tasks.meters import gauge_family
from tasks.settings import visible_gpus

_log = structlog.get_logger(__name__)


class GpuMetrics(Collector):
    """Memory and utilisation.

    Args:
        nvml: the library, initialised.
        worker: Celery's name of this worker.
        gpus: the GPU's index or UUID, as CUDA_VISIBLE_DEVICES has it.
    """

    def __init__(self, nvml: Any, worker: str, gpus: Iterable[str]) -> None:  # noqa: ANN401 - a module
        self._nvml = nvml
        self._worker = worker
        self._gpus = tuple(gpus)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One scrape; a GPU that does not answer is left out."""
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


def gpu_metrics(worker: str) -> tuple[Collector, ...]:
    """The collector of this worker's GPU, if it has one and the library is installed."""
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
    return (GpuMetrics(nvml, worker, gpus[:1]),) if gpus else ()
