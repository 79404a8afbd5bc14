"""A real Prometheus over the real service: every panel has data, and alerts fire.

It has a service of its own, whose worker it kills.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.grafana import dashboards
from tests.support.prometheus import Prometheus, prometheus_server, running_prometheus
from tests.support.servers import Servers
from tests.support.service import RunningService, running_service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(prometheus_server() is None, reason="apt install prometheus"),
    pytest.mark.timeout(300),
]
JOBS = 20
FORMATS = ({}, {"output_format": "webp"}, {"output_format": "jpg", "matte_color": "white"})


@pytest.fixture(scope="module")
def own_service(
    servers: Servers,
    service_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningService]:
    own = servers.new_database()
    env = {**service_environment, "RMBG_REDIS_URL": own, "RMBG_HOST": "watched"}
    with running_service(env, tmp_path_factory.mktemp("watched")) as service:
        yield service


@pytest.fixture(scope="module")
def prometheus(
    own_service: RunningService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    groups = [
        {
            "targets": [url.removeprefix("http://").removesuffix("/metrics")],
            "labels": {"service": n},
        }
        for n, url in own_service.metrics.items()
    ]
    (folder / "targets.json").write_text(json.dumps(groups))
    with running_prometheus(folder, folder / "targets.json", delay="2s") as server:
        yield server


def _await(what: str, ask: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ask():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.2)


def test_every_panel_has_data_after_mixed_jobs(
    own_service: RunningService, prometheus: Prometheus, photos: list[Path], tmp_path: Path
) -> None:
    _await("three targets", lambda: len(prometheus.query("up == 1")) == len(own_service.metrics))
    bad = tmp_path / "bad.png"
    whole = photos[0].read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    client = own_service.client
    ids = [client.submit(photos[n % len(photos)], FORMATS[n % len(FORMATS)]) for n in range(JOBS)]
    for task_id in ids:
        assert client.wait(task_id)["status"] == "succeeded"
    assert "RmbgNoLiveWorker" not in prometheus.firing()
    empty: list[str] = []

    def all_have_data() -> bool:
        empty[:] = [
            f"{dashboard.title}: {panel.title}: {query.expr}"
            for dashboard in dashboards()
            for panel in dashboard.panels
            for query in panel.queries
            if not panel.needs_gpu and not prometheus.query(query.expr)
        ]
        return not empty

    try:
        _await("data in every panel", all_have_data, seconds=20)
    except pytest.fail.Exception:
        pytest.fail("\n".join(["no data for", *empty]))


def test_a_killed_worker_is_told_by_the_alert(
    own_service: RunningService, prometheus: Prometheus
) -> None:
    _await("no alert", lambda: not prometheus.firing() & {"RmbgNoLiveWorker", "RmbgWorkerDown"})
    parent = psutil.Process(own_service.model_worker_pid)
    for process in [parent, *parent.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    expected = {"RmbgNoLiveWorker", "RmbgWorkerDown", "RmbgNotScraped"}
    _await("the alerts", lambda: expected <= prometheus.firing())
