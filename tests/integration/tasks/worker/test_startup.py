"""Which worker commands are refused, by workers that Celery makes as its command line does."""

from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from tasks.app import create_celery
from tasks.errors import QueueUnavailableError
from tasks.redis_client import probe_redis
from tasks.settings import Settings
from tasks.worker.startup import check_command
from tasks.worker_registry import WorkerRegistry
from tests.support.workers import lasting_registry


class _Made(Exception):  # noqa: N818 - no error
    """Ends the making of a worker where its command has been checked."""


def _make(settings: Settings, redis: Redis, **options: Any) -> None:  # noqa: ANN401 - Celery's
    """Make a worker up to Celery's signal `worker_init`, which checks its command."""
    app = create_celery(settings)

    def check(sender: Any, **_: object) -> None:  # noqa: ANN401 - Celery's signature
        check_command(sender, settings, WorkerRegistry(redis))
        raise _Made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("celery.signals.worker_init.send", check)
        patch.setattr("tasks.worker.startup.configure_logging", lambda _settings: None)
        # It warns of root, as which tests may run.
        patch.setattr("celery.apps.worker.check_privileges", lambda _: None)
        app.Worker(**{"queues": "model.u2netp,gpu.h.0", "hostname": "gpu0@h", **options})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"queues": "gpu.h.0,model.u2netp,model.isnet"}, "and -Q names model.isnet: take from"),
        ({"pool": "threads"}, "leave out -P, or say prefork"),
        ({"concurrency": 2}, "leave out -c"),
        ({"autoscale": "3,1"}, "leave out -c and --autoscale"),
    ],
)
def test_a_command_that_would_run_jobs_wrongly_is_refused(
    settings: Settings, redis: Redis, options: dict[str, object], reason: str
) -> None:
    with capture_logs() as lines, pytest.raises(SystemExit, match="1"):
        _make(settings, redis, **options)
    assert reason in lines[-1]["reason"]


def test_a_right_command_is_taken(settings: Settings, redis: Redis) -> None:
    of_an_io_worker = {"queues": "webhooks", "pool": "threads", "concurrency": 32}
    for options in ({}, {"queues": "gpu.h.0"}, of_an_io_worker):
        with pytest.raises(_Made):
            _make(settings, redis, **options)


def test_an_old_redis_is_told(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {**redis.info("server"), "redis_version": "6.2.17"}
    monkeypatch.setattr(Redis, "info", lambda *_: told)
    with capture_logs() as lines, pytest.raises(SystemExit):
        _make(settings, redis)
    assert "Redis 6.2.17 lacks EXPIRETIME: upgrade" in lines[-1]["reason"]
    with pytest.raises(QueueUnavailableError, match="lacks EXPIRETIME"):
        probe_redis(settings)


def test_a_name_in_use_is_refused_and_that_of_a_killed_worker_is_not(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting_registry(redis).record_heartbeat("gpu0@h")
    monkeypatch.setattr("tasks.worker.startup._PING_SECONDS", 0.1)
    with pytest.raises(_Made):
        _make(settings, redis)
    monkeypatch.setattr("celery.app.control.Control.ping", lambda *_, **__: [{"gpu0@h": "ok"}])
    with capture_logs() as lines, pytest.raises(SystemExit):
        _make(settings, redis)
    assert "gpu0@h is running: give each its own name with -n" in lines[-1]["reason"]
