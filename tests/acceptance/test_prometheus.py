"""A real Prometheus over the real service: every panel has data, and alerts fire.

It has a service of its own, whose worker it kills.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.grafana import dashboards
from tests.support.prometheus import Prometheus, prometheus_server, running_prometheus
from tests.support.servers import Servers
from tests.support.service import RunningService, eventually, running_service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(prometheus_server() is None, reason="apt install prometheus"),
    pytest.mark.timeout(300),
]
JOBS = 20
FORMATS = ({}, {"output_format": "webp"}, {"output_format": "jpg", "matte_color": "white"})


@pytest.fixture(scope="module")
def own_service(
    servers: Servers, service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    own = {"RMBG_REDIS_URL": servers.new_database(), "RMBG_HOST": "watched"}
    with running_service(service_environment | own, tmp_path_factory.mktemp("watched")) as service:
        yield service


@pytest.fixture(scope="module")
def prometheus(
    own_service: RunningService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    groups = [
        {
            "targets": [url.removeprefix("http://").removesuffix("/metrics")],
            "labels": {"service": name},
        }
        for name, url in own_service.metrics.items()
    ]
    (folder / "targets.json").write_text(json.dumps(groups))
    with running_prometheus(folder, folder / "targets.json", delay="2s") as server:
        yield server


def test_every_panel_has_data_after_mixed_jobs(
    own_service: RunningService, prometheus: Prometheus, photos: list[Path]
) -> None:
    eventually(
        "three targets", lambda: len(prometheus.query("up == 1")) == len(own_service.metrics)
    )
    client = own_service.client
    ids = [client.submit(photos[n % len(photos)], FORMATS[n % len(FORMATS)]) for n in range(JOBS)]
    for task_id in ids:
        assert client.wait(task_id)["status"] == "succeeded"
    assert "RmbgNoLiveWorker" not in prometheus.firing()
    queries = [
        (f"{dashboard.title}: {panel.title}", query.expr)
        for dashboard in dashboards()
        for panel in dashboard.panels
        for query in panel.queries
        if not panel.needs_gpu
    ]
    for panel, expr in queries:
        eventually(f"data in {panel}: {expr}", lambda expr=expr: prometheus.query(expr), seconds=20)


def test_a_killed_worker_fires_the_alerts(
    own_service: RunningService, prometheus: Prometheus
) -> None:
    alerts = {"RmbgNoLiveWorker", "RmbgWorkerDown", "RmbgNotScraped"}
    eventually("no alert", lambda: not prometheus.firing() & (alerts - {"RmbgNotScraped"}))
    parent = psutil.Process(own_service.model_worker_pid)
    for process in [parent, *parent.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    eventually("the alerts", lambda: alerts <= prometheus.firing())
