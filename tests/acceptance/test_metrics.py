"""The service's metrics, scraped from its real processes, over their deaths too."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import reserved_ports
from tasks import metrics
from tests.support.servers import running
from tests.support.service import RunningService, api_service

T = TypeVar("T")
WORKER = "gpu0@acceptance"
STAGES = ("queue", "fetch", "decode", "preprocess", "inference", "compose", "encode", "store")
#: Only where there is a GPU.
GPU = {metrics.GPU_MEMORY.name, metrics.GPU_UTILISATION.name}


class Scrape:
    """One answer of `/metrics`."""

    def __init__(self, url: str) -> None:
        answer = urllib3.request("GET", url, retries=3)
        assert answer.status == 200, answer.data
        self.families = list(text_string_to_metric_families(answer.data.decode()))
        self.samples = [sample for family in self.families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        return sum(
            each.value
            for each in self.samples
            if each.name == name and labels.items() <= each.labels.items()
        )


def _await(what: str, ask: Callable[[], T], *, seconds: float = 30) -> T:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.05)
    pytest.fail(f"not within {seconds} s: {what}")


def _quiet(url: str) -> bool:
    """Has all ended that other tests began, but for what waits for a model that nobody serves?"""
    now = Scrape(url)
    return now.sum("rmbg_pending") == now.sum("rmbg_queue_depth", queue="model.nobody")


def test_a_job_is_counted_by_those_who_worked_on_it(service: RunningService, coffee: Path) -> None:
    _await("the end of other tests' jobs", lambda: _quiet(service.metrics["api"]), seconds=90)
    before = Scrape(service.metrics["api"])
    service.client.cut_out(coffee, {"cache": "false"})
    after = Scrape(service.metrics["api"])
    labels = {"status": "succeeded", "format": "png", "model": "u2netp", "worker": WORKER}
    for name in ("rmbg_jobs_total", "rmbg_job_seconds_count", "rmbg_attempts_total"):
        chosen = labels if name == "rmbg_jobs_total" else {}
        assert after.sum(name, **chosen) - before.sum(name, **chosen) == 1, name
    assert after.sum("rmbg_worker_up", worker=WORKER, gpu="0") == 1
    assert after.sum("rmbg_redis_up") == after.sum("rmbg_store_up") == 1
    posted = {"method": "POST", "route": "/api/v1/remove-bg", "status": "202"}
    assert after.sum("rmbg_http_requests_total", **posted) >= 1
    worker = Scrape(service.metrics["gpu0"])
    for stage in STAGES:
        assert worker.sum("rmbg_stage_seconds_count", stage=stage) >= 1, stage
    assert worker.sum("rmbg_inference_seconds_count", status="ok", worker=WORKER) >= 1


def test_a_worker_goes_on_counting_when_its_child_is_replaced(
    service: RunningService, coffee: Path
) -> None:
    service.client.cut_out(coffee, {"cache": "false"})
    url = service.metrics["gpu0"]
    before = Scrape(url)
    children = psutil.Process(service.model_worker_pid).children()
    child = max(children, key=lambda each: each.memory_info().rss)
    os.kill(child.pid, signal.SIGKILL)
    service.client.cut_out(coffee, {"cache": "false"})
    loads = "rmbg_model_loads_total"
    _await("a new child", lambda: Scrape(url).sum(loads) == before.sum(loads) + 1)
    done = {"status": "ok"}
    name = "rmbg_inference_seconds_count"
    assert Scrape(url).sum(name, **done) == before.sum(name, **done) + 1


def test_every_metric_is_shown_where_the_table_says(service: RunningService, coffee: Path) -> None:
    service.client.cut_out(coffee, {})
    seen = "celery_task_runtime_count"
    _await("an event", lambda: Scrape(service.metrics["io"]).sum(seen) >= 1)
    homes = {
        "api": (metrics.MetricSource.API, metrics.MetricSource.REDIS),
        "gpu0": (metrics.MetricSource.WORKER,),
    }
    for place, home in {**homes, "io": (metrics.MetricSource.IO,)}.items():
        shown = {family.name for family in Scrape(service.metrics[place]).families}
        expected = {
            each.name.removesuffix("_total")
            for each in metrics.METRICS
            if each.source in {*home, metrics.MetricSource.ALL} and each.name not in GPU
        }
        assert expected <= shown, place
        ours = {name for name in shown if name.startswith(("rmbg_", "celery_"))}
        assert ours <= {each.name.removesuffix("_total") for each in metrics.METRICS}, place


@contextmanager
def _api(env: dict[str, str], log: Path):  # noqa: ANN202 - a generator's type says nothing here
    with reserved_ports() as ports, running(api_service(ports[0], env), log) as process:
        yield f"http://127.0.0.1:{ports[0]}", process


def test_several_api_processes_count_as_one_and_over_a_death(
    service: RunningService, tmp_path: Path
) -> None:
    env = {**service.env, "RMBG_API_WORKERS": "2"}
    name, route = "rmbg_http_requests_total", {"route": "/healthz/live"}
    with _api(env, tmp_path / "api.log") as (url, process):

        def ask(times: int) -> None:
            for _ in range(times):
                # A connection of its own each, so that both processes get some.
                with urllib3.PoolManager() as pool:
                    assert pool.request("GET", f"{url}/healthz/live").status == 200

        ask(20)
        assert {Scrape(f"{url}/metrics").sum(name, **route) for _ in range(5)} == {20}
        killed = psutil.Process(process.pid).children()[0]
        killed.kill()
        _await("its end", lambda: not killed.is_running())
        ask(20)
        assert {Scrape(f"{url}/metrics").sum(name, **route) for _ in range(5)} == {40}


def test_nothing_that_a_client_chooses_becomes_a_label(service: RunningService) -> None:
    for method, path in (("GET", "/evil-path"), ("BREW", "/evil-path"), ("GET", "/api/v1/tasks/e")):
        urllib3.request(method, f"{service.url}{path}")
    labels = {str(each.labels) for each in Scrape(service.metrics["api"]).samples}
    assert not [text for text in labels if "evil" in text or "BREW" in text]
