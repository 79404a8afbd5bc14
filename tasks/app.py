"""The Celery application: `celery -A tasks.app worker|inspect|flower`, with its time limits.

Each option that reliability rests on says which stock behaviour it replaces.
"""

import sys
from functools import cache
from typing import Any, Final

from celery import Celery

from inference.errors import ModelError
from inference.models.registry import get_spec
from tasks import redis_keys
from tasks.errors import SettingsError
from tasks.jobs import routing
from tasks.settings import Settings

#: Time limits of one job, in seconds: of a small model, on a GPU, on a CPU.
_SMALL_MODEL_SECONDS: Final = 30
_GPU_SECONDS: Final = 60
_CPU_SECONDS: Final = 180
#: How often an idle model is probed at least, and how often within the time limit.
_PROBE_SECONDS: Final = 30
_PROBES_PER_LIMIT: Final = 3
#: A model's answer counts for so many seconds more than a job may keep the probe away.
_READY_LEAD_SECONDS: Final = 10
#: The soft limit comes at most so much before the hard one.
_SOFT_LEAD_SECONDS: Final = 10


def time_limit(settings: Settings) -> int:
    """Return the hard time limit of one job, in seconds: the setting, or by model and device."""
    if settings.time_limit is not None:
        return settings.time_limit
    try:
        small = get_spec(settings.model).engine == "onnx"
    except ModelError:
        small = False
    if small:
        return _SMALL_MODEL_SECONDS
    return _GPU_SECONDS if settings.device.startswith("cuda") else _CPU_SECONDS


def soft_time_limit(settings: Settings) -> float:
    """Return the soft time limit, at which Python code is interrupted, some seconds earlier."""
    hard = time_limit(settings)
    return hard - min(_SOFT_LEAD_SECONDS, hard / 3)


def probe_seconds(settings: Settings) -> float:
    """Return how often an idle model is probed, in seconds."""
    return min(_PROBE_SECONDS, time_limit(settings) / _PROBES_PER_LIMIT)


def ready_seconds(settings: Settings) -> float:
    """Return how long a model's answer counts: longer than a job may keep it from being probed."""
    return time_limit(settings) + _READY_LEAD_SECONDS


def create_celery(settings: Settings, *, socket_timeout: float = 10) -> Celery:
    """Make an application for these settings; it connects when first used.

    A Redis that is silent for `socket_timeout` seconds counts as away.
    """
    app = Celery("rmbg", include=["tasks.worker.celery_tasks"])
    app.conf.update(_configuration(settings))
    app.conf.broker_transport_options.update(_transport_options(socket_timeout))
    # Named, not imported: a process that only sends messages loads no worker code.
    app.steps["worker"].add("tasks.housekeeping.periodic:HousekeepingStep")
    app.steps["worker"].add("tasks.worker.monitor:WorkerMonitorStep")
    app.steps["worker"].add("tasks.worker.shutdown:ShutdownStep")
    app.steps["worker"].add("tasks.worker.metrics:MetricsStep")
    app.steps["worker"].add("tasks.worker.metrics:CeleryEventsStep")
    return app


def _configuration(settings: Settings) -> dict[str, Any]:
    broker = settings.redis_address.celery_broker()
    return {
        "broker_url": broker.url,
        "broker_use_ssl": broker.use_ssl,
        "broker_transport": broker.transport,
        "broker_transport_options": broker.transport_options,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_default_queue": routing.WEBHOOK_QUEUE,
        "task_ignore_result": True,
        "task_acks_late": True,
        # A dead child's message comes back at once; the record's attempt count bounds it.
        "task_reject_on_worker_lost": True,
        # One attempt counter, the record's.
        "task_retry_on_worker_lost": False,
        # A job killed at its limit comes back at once too.
        "task_acks_on_timeout": False,
        "task_time_limit": time_limit(settings),
        "task_soft_time_limit": soft_time_limit(settings),
        "worker_max_memory_per_child": settings.max_memory_mb and settings.max_memory_mb * 1024,
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "worker_pool_start_method": "spawn",
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        # Loading a model takes longer than the 4 s after which Celery kills a silent new child.
        "worker_proc_alive_timeout": 300,
        # True loses the running task's message when the broker restarts.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Celery's soft shutdown always sleeps for its whole time. `tasks.worker.shutdown` takes its
        # place, so that SIGTERM ends a worker as soon as its job has ended.
        "worker_soft_shutdown_timeout": 0,
        "worker_hijack_root_logger": False,
    }


def _transport_options(socket_timeout: float) -> dict[str, Any]:
    """Return the Redis transport's options; all but the timeouts must be equal in every process."""
    return {
        "visibility_timeout": 30,
        "unacked_key": redis_keys.UNACKED,
        "unacked_index_key": redis_keys.UNACKED_INDEX,
        "unacked_mutex_key": redis_keys.UNACKED_LOCK,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "queue_order_strategy": "priority",
        "priority_steps": [0, 3, 6, 9],
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }


@cache
def _cached_app() -> Celery:
    return create_celery(Settings.load())


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute may be anything
    """Make `tasks.app.app` when the celery command asks for it, not at import."""
    if name == "app":
        try:
            return _cached_app()
        except SettingsError as error:
            # Celery would print any exception with its whole trace.
            print(error, file=sys.stderr)  # noqa: T201 - the command's message
            raise SystemExit(2) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
