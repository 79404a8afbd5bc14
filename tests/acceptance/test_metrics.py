"""The service's metrics, scraped from its real processes, over their deaths too."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from tasks import metrics
from tasks.metrics import MetricSource
from tests.support.service import STAGES, WORKER, RunningService, eventually, running_api

PLACES = {
    "api": {MetricSource.ALL, MetricSource.API, MetricSource.REDIS},
    "gpu0": {MetricSource.ALL, MetricSource.WORKER},
    "io": {MetricSource.ALL, MetricSource.IO},
}
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


def _quiet(url: str) -> bool:
    """Has all ended that other tests began, but for what waits for a model that nobody serves?"""
    now = Scrape(url)
    return now.sum("rmbg_pending") == now.sum("rmbg_queue_depth", queue="model.nobody")


def test_a_job_is_counted_by_those_who_worked_on_it(service: RunningService, coffee: Path) -> None:
    eventually("the end of other tests' jobs", lambda: _quiet(service.metrics["api"]), seconds=90)
    before = Scrape(service.metrics["api"])
    service.client.cut_out(coffee, {"cache": "false"})
    after = Scrape(service.metrics["api"])
    for name in ("rmbg_jobs_total", "rmbg_job_seconds_count", "rmbg_attempts_total"):
        assert after.sum(name) - before.sum(name) == 1, name
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
    service.kill_model_process()
    service.client.cut_out(coffee, {"cache": "false"})
    loads, runs = "rmbg_model_loads_total", "rmbg_inference_seconds_count"
    eventually("a new child", lambda: Scrape(url).sum(loads) == before.sum(loads) + 1)
    assert Scrape(url).sum(runs, status="ok") == before.sum(runs, status="ok") + 1


def test_every_metric_is_shown_where_the_table_says(service: RunningService, coffee: Path) -> None:
    service.client.cut_out(coffee, {})
    seen = "celery_task_runtime_count"
    eventually("an event", lambda: Scrape(service.metrics["io"]).sum(seen) >= 1)
    known = {each.name.removesuffix("_total"): each.source for each in metrics.METRICS}
    for place, sources in PLACES.items():
        shown = {family.name for family in Scrape(service.metrics[place]).families}
        expected = {name for name, source in known.items() if source in sources}
        assert expected - GPU <= shown, place
        assert {name for name in shown if name.startswith(("rmbg_", "celery_"))} <= known.keys()


def test_both_api_processes_count_as_one_and_over_a_death(service: RunningService) -> None:
    def count() -> float:
        counts = {
            Scrape(service.metrics["api"]).sum("rmbg_http_requests_total", route="/healthz/live")
            for _ in range(5)
        }
        assert len(counts) == 1
        return counts.pop()

    def ask(times: int) -> None:
        for _ in range(times):
            # A connection of its own each, so that both processes get some.
            with urllib3.PoolManager() as pool:
                assert pool.request("GET", f"{service.url}/healthz/live").status == 200

    before = count()
    ask(20)
    assert count() == before + 20
    first, _ = psutil.Process(service.api.pid).children()
    first.kill()
    eventually("its end", lambda: not first.is_running())
    ask(20)
    assert count() == before + 40


def test_nothing_that_a_client_chooses_becomes_a_label(service: RunningService) -> None:
    for method, path in (("GET", "/evil-path"), ("BREW", "/evil-path"), ("GET", "/api/v1/tasks/e")):
        urllib3.request(method, f"{service.url}{path}")
    labels = {str(each.labels) for each in Scrape(service.metrics["api"]).samples}
    assert not [text for text in labels if "evil" in text or "BREW" in text]


def test_an_api_takes_over_from_another_by_usr2_and_no_request_is_refused(
    service_environment: dict[str, str], tmp_path: Path
) -> None:
    """As docs/operations.md says of an upgrade: with new modules, and metrics of its own."""
    log, ended = tmp_path / "api.log", threading.Event()
    # An idle connection may be closed just as it is used: HTTP clients then take another one.
    retries = urllib3.Retry(connect=0, read=5)
    with running_api(service_environment, log) as api, ThreadPoolExecutor(1) as pool:

        def ask(path: str = "/healthz/live") -> urllib3.BaseHTTPResponse:
            return urllib3.request("GET", f"{api.url}{path}", retries=retries, timeout=120)

        def ask_until_ended() -> set[int]:
            statuses = set()
            while not ended.is_set():
                statuses.add(ask().status)
            return statuses

        asked = pool.submit(ask_until_ended)
        try:
            master = psutil.Process(api.pid)
            master.send_signal(signal.SIGUSR2)
            eventually(
                "the new master's process",
                lambda: log.read_text().count("Started server process") == 2,
                show=log.read_text,
            )
            master.terminate()
            master.wait(60)
            answer = ask("/metrics")
        finally:
            ended.set()
        assert asked.result(timeout=120) == {200}
        assert "rmbg_http_requests_total{" in answer.data.decode()
