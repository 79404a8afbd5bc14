"""`rmbg health`, for workers registered in a real Redis."""

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from deploy.cli.health import MAX_STARTS, unhealthy_reason
from deploy.cli.main import app
from tasks.worker_registry import WorkerRegistry

WORKER = "gpu0@h"


@pytest.fixture
def registry(redis: Redis) -> WorkerRegistry:
    registry = WorkerRegistry(redis)
    registry.record_start(WORKER)
    registry.record_heartbeat(WORKER, queue="gpu.h.0", model="m")
    registry.mark_ready(WORKER, 60, model="m", pid=1)
    return registry


def _health(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["health", *arguments])


def test_a_worker_is_healthy_while_it_beats_and_its_model_answers(registry: WorkerRegistry) -> None:
    registry.drain(WORKER, "no reason to restart it")
    assert unhealthy_reason(registry, WORKER) == ""
    registry.mark_not_ready(WORKER)
    assert "does not answer" in unhealthy_reason(registry, WORKER)
    registry.remove(WORKER)
    assert "no heartbeat" in unhealthy_reason(registry, WORKER)


def test_a_worker_whose_process_keeps_restarting_is_unhealthy(registry: WorkerRegistry) -> None:
    for _ in range(MAX_STARTS - 1):
        registry.record_start(WORKER)
    assert unhealthy_reason(registry, WORKER) == ""
    registry.record_start(WORKER)
    assert f"started {MAX_STARTS + 1} times" in unhealthy_reason(registry, WORKER)


def test_the_exit_status_is_the_health(
    registry: WorkerRegistry, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", redis_url)
    assert _health("worker", WORKER).exit_code == 0
    registry.remove(WORKER)
    gone = _health("worker", WORKER)
    assert (gone.exit_code, gone.stderr) == (1, f"{WORKER}: no heartbeat\n")
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://127.0.0.1:1/0")
    for kind in ("worker", "io"):
        away = _health(kind, WORKER)
        assert (away.exit_code, type(away.exception)) == (1, SystemExit)
        assert "Redis does not answer" in away.stderr
    assert _health("api", "http://127.0.0.1:1").exit_code == 1
    assert _health("api", "127.0.0.1:1").exit_code == 2
