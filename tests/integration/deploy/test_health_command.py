"""`rmbg health`: what a container's health check sees of a worker in a real Redis."""

from collections.abc import Iterator

import pytest
from redis import Redis
from typer.testing import CliRunner

from deploy.cli.health import MAX_STARTS, unhealthy_reason
from deploy.cli.main import app
from tasks.redis_client import connect
from tasks.worker_registry import WorkerRegistry

WORKER = "gpu0@h"


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url.removesuffix("/0") + "/7") as client:
        client.flushdb()
        yield client


@pytest.fixture
def fleet(client: Redis) -> WorkerRegistry:
    fleet = WorkerRegistry(client)
    fleet.note_start(WORKER)
    fleet.beat(WORKER, queue="gpu.h.0", model="m")
    fleet.announce(WORKER, 60, model="m", pid=1)
    return fleet


def test_a_worker_that_lives_and_answers_is_well(fleet: WorkerRegistry) -> None:
    assert unhealthy_reason(fleet, WORKER) == ""


def test_a_drained_worker_is_well(fleet: WorkerRegistry) -> None:
    fleet.drain(WORKER, "new fan")
    assert unhealthy_reason(fleet, WORKER) == ""


def test_one_that_is_loading_or_gone_is_not(fleet: WorkerRegistry) -> None:
    fleet.withdraw(WORKER)
    assert "does not answer" in unhealthy_reason(fleet, WORKER)
    fleet.leave(WORKER)
    assert "lives" in unhealthy_reason(fleet, WORKER)
    assert "lives" in unhealthy_reason(fleet, "gpu9@h")


def test_a_child_that_dies_again_and_again_is_seen_although_its_worker_looks_ready(
    fleet: WorkerRegistry,
) -> None:
    for _ in range(MAX_STARTS - 1):
        fleet.note_start(WORKER)
    assert unhealthy_reason(fleet, WORKER) == ""
    fleet.note_start(WORKER)
    assert f"started {MAX_STARTS + 1} times" in unhealthy_reason(fleet, WORKER)


def test_the_command_says_so_by_its_status(
    fleet: WorkerRegistry, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", redis_url.removesuffix("/0") + "/7")
    assert CliRunner().invoke(app, ["health", "worker", WORKER]).exit_code == 0
    fleet.leave(WORKER)
    gone = CliRunner().invoke(app, ["health", "worker", WORKER])
    assert (gone.exit_code, gone.stderr) == (1, f"{WORKER}: it does not say that it lives\n")


def test_without_redis_or_api_the_command_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://127.0.0.1:1/0")
    away = CliRunner().invoke(app, ["health", "worker", WORKER])
    assert away.exit_code == 1
    assert "Redis does not answer" in away.stderr
    assert CliRunner().invoke(app, ["health", "api", "http://127.0.0.1:1"]).exit_code == 1
