"""The thread that ends a worker, which is there until the very last moment of its process."""

import threading
from queue import Queue
from types import SimpleNamespace

import pytest
from celery import Celery

from tasks.settings import Settings
from tasks.worker import monitor, shutdown
from tasks.worker.shutdown import ShutdownStep
from tasks.worker_registry import WorkerRegistry

WORKER, READY, LOADING = "gpu0@shutdown", 7, 8


def test_a_child_that_loads_is_killed_at_once_and_one_that_works_after_the_grace_period(
    app: Celery,
    registry: WorkerRegistry,
    server_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An interpreter that ends while a thread is in `Settings.load`, native code, aborts."""
    loaders, killed, load = [], [], Settings.load

    def loading(**given: object) -> Settings:
        loaders.append(threading.current_thread())
        return load(**{**server_settings, "shutdown_seconds": 0.3, **given})

    monkeypatch.setattr(Settings, "load", loading)
    monkeypatch.setattr(monitor, "child_pids", lambda: {READY, LOADING} - set(killed))
    monkeypatch.setattr(monitor, "kill_child", killed.append)
    at_the_end = Queue[tuple[str, list[int]]]()
    monkeypatch.setattr(shutdown, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(shutdown, "_force_exit", lambda name: at_the_end.put((name, [*killed])))
    registry.mark_ready(WORKER, 90, pid=READY)
    app.amqp.queues.select(["model.m"])
    step = ShutdownStep(SimpleNamespace(hostname=WORKER, app=app))
    app.amqp.queues.deselect("model.m")  # as the monitor does while it is drained
    for _ in range(2):
        step.close(None)
    assert at_the_end.get(timeout=30) == (WORKER, [LOADING, READY])
    assert at_the_end.empty()
    assert loaders == [threading.main_thread()]
