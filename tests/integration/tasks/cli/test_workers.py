"""`celery jobs workers`, `drain` and `undrain`."""

import pytest

from tasks.worker_registry import WorkerRegistry
from tests.support.commands import WORKER, Run, json_of


def test_workers_shows_what_each_is_doing(run: Run, registry: WorkerRegistry) -> None:
    assert "start one" in run("workers").stdout
    registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    assert json_of(run("workers", "--json"))["workers"][0]["state"] == "not-ready"
    registry.mark_ready(WORKER, 60, pid=7)
    (worker,) = json_of(run("workers", "--json"))["workers"]
    assert (worker["name"], worker["state"], worker["model"]) == (WORKER, "ready", "u2netp")
    assert run("workers").stdout.splitlines()[1].split()[:2] == [WORKER, "ready"]


def test_a_worker_is_drained_and_undrained(run: Run, registry: WorkerRegistry) -> None:
    registry.record_heartbeat(WORKER)
    result = run("drain", WORKER, "--reason", "new fan")
    assert f"undrain {WORKER}" in result.stderr
    assert registry.drained(WORKER) == "new fan"
    assert json_of(run("workers", "--json"))["workers"][0]["state"] == "drained"
    assert "new fan" in run("workers").stdout
    assert json_of(run("undrain", WORKER, "--json")) == {"undrained": WORKER}
    assert registry.drained(WORKER) == ""
    assert "not drained" in run("undrain", WORKER, status=1).stderr


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_a_mistyped_worker_is_not_drained(run: Run, registry: WorkerRegistry, command: str) -> None:
    registry.record_heartbeat(WORKER)
    assert f"Model workers: {WORKER}" in run(command, "gpu9", status=1).stderr
    assert json_of(run(command, "gpu9", "--json", status=1))["error"]["type"] == "unknown_worker"
