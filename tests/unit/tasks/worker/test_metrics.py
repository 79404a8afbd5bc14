"""What a worker's metrics port shows of its GPU and of Celery's events."""

import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from deploy.local.ports import LOOPBACK, reserved_ports
from tasks.metrics import instruments
from tasks.worker.metrics import CeleryEventsStep, MetricsStep
from tests.support.clock import Clock
from tests.support.listening import listening


class _NvmlError(Exception):
    """Of the library `pynvml`."""


def _read_memory(handle: str) -> SimpleNamespace:
    if handle == "0":
        raise _NvmlError
    return SimpleNamespace(used=3, total=4)


#: The library on a machine with two GPUs, the first of which does not answer.
_NVML = ModuleType("pynvml")
vars(_NVML).update(
    NVMLError=_NvmlError,
    nvmlInit=lambda: None,
    nvmlDeviceGetCount=lambda: 2,
    nvmlDeviceGetHandleByIndex=str,
    nvmlDeviceGetHandleByUUID=str,
    nvmlDeviceGetMemoryInfo=_read_memory,
    nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=50),
)


def _worker(queue: str) -> SimpleNamespace:
    queues = SimpleNamespace(consume_from={queue})
    app = SimpleNamespace(amqp=SimpleNamespace(queues=queues))
    return SimpleNamespace(hostname="gpu0@h", app=app, pool_cls=SimpleNamespace)


def _shown(monkeypatch: pytest.MonkeyPatch, queue: str) -> Mapping[str, list[float]]:
    """Values of the samples of a worker's GPU, by name and label."""
    with reserved_ports() as ports:
        monkeypatch.setenv("RMBG_METRICS_PORT", str(ports[0]))
        step, worker = MetricsStep(_worker(queue)), _worker(queue)
        step.start(worker)
        try:
            text = urllib3.request("GET", f"http://{LOOPBACK}:{ports[0]}/metrics").data.decode()
        finally:
            step.terminate(worker)
    samples = [each for one in text_string_to_metric_families(text) for each in one.samples]
    return {
        each.labels["gpu"] + each.labels.get("memory", ""): each.value
        for each in samples
        if each.name.startswith("rmbg_gpu")
    }


@pytest.mark.parametrize(
    ("device", "visible", "queue", "gpu"),
    [
        ("auto", "", "gpu.h.0", None),
        ("cuda:1", "", "gpu.h.0", "1"),
        ("cuda", "1,0", "model.m", "1"),
        ("cuda:1", "1,GPU-4a", "gpu.h.0", "GPU-4a"),
        ("cuda:2", "", "gpu.h.0", None),
        ("cpu", "1", "gpu.h.0", None),
        ("cuda:1", "", "webhooks", None),
    ],
)
def test_a_model_worker_shows_the_gpu_that_its_model_runs_on(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str, queue: str, gpu: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _NVML)
    monkeypatch.setenv("RMBG_DEVICE", device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = {gpu: 0.5, f"{gpu}used": 3, f"{gpu}total": 4} if gpu else {}
    assert _shown(monkeypatch, queue) == expected


@pytest.mark.parametrize("problem", ["not installed", "no driver"])
def test_a_machine_without_gpus_shows_none(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    def no_driver() -> None:
        raise _NvmlError(problem)

    broken = SimpleNamespace(NVMLError=_NvmlError, nvmlInit=no_driver)
    monkeypatch.setitem(sys.modules, "pynvml", broken if problem == "no driver" else None)
    assert _shown(monkeypatch, "gpu.h.0") == {}


def test_a_worker_whose_metrics_port_is_taken_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listening(lambda _: None) as port, capture_logs() as lines:
        monkeypatch.setenv("RMBG_METRICS_PORT", str(port))
        MetricsStep(_worker("webhooks")).start(_worker("webhooks"))
    (line,) = lines
    assert (line["event"], line["port"]) == ("metrics.not_served", port)
    assert line["advice"] == "set RMBG_METRICS_PORT to a free one"


def test_events_of_tasks_are_counted_and_workers_are_up_until_they_fall_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("tasks.worker.metrics.time", SimpleNamespace(monotonic=clock))
    instruments.cache_clear()
    step = CeleryEventsStep(_worker("webhooks"))

    def value(name: str, **labels: str) -> float | None:
        return instruments().registry.get_sample_value(
            f"celery_{name}", {"hostname": "a", **labels}
        )

    for kind in ("worker-online", "task-received", "task-succeeded", "task-unheard-of"):
        step._count({"type": kind, "hostname": "a", "runtime": 2.5})
    names = ("received", "succeeded", "unheard-of")
    assert [value("task_events_total", event=name) for name in names] == [1, 1, None]
    assert (value("task_runtime_sum"), value("worker_up")) == (2.5, 1)
    for seconds, kind, host, up in (
        (11, "heartbeat", "b", 0),
        (0, "heartbeat", "a", 1),
        (0, "offline", "a", 0),
    ):
        clock.now += seconds
        step._count({"type": f"worker-{kind}", "hostname": host})
        assert value("worker_up") == up, (kind, host)
