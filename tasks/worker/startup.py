"""Startup of a worker: check its command and weights, load the model, and abort if that fails.

Celery only logs what a child's initializer raises, and lets that child take jobs. So the parent
checks the model's file before it starts its pool, and a child that cannot load the model signals
the parent to exit with status 1; the supervisor decides on a restart.
"""

import ctypes
import os
import secrets
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
from celery import concurrency
from celery.concurrency.prefork import TaskPool
from celery.exceptions import OperationalError
from celery.worker import state
from redis.exceptions import RedisError

from inference.errors import ModelError
from inference.models.birefnet.config import PatchOrder
from inference.models.registry import get_spec
from inference.models.weights import check_weights, file_sha256, find_weights_file
from tasks.jobs import routing
from tasks.log import configure_logging, log_unknown_variables
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.models.base import MattingModel

_FAILURE: Final = 1
#: A signal that Celery does not use: SIGQUIT waits for the soft shutdown, SIGTERM exits with 0.
_SIG_ABORT_STARTUP: Final = signal.SIGUSR2
#: How long a child that cannot load waits for its end, so that Celery starts no other meanwhile.
_ABORT_SECONDS: Final = 20.0

_NAME_IN_USE: Final = "a worker named {} is running: give each its own name with -n"
#: A worker that runs answers a ping within this.
_PING_SECONDS: Final = 1.0

#: mallopt(3): the parameters, and what a child sets them to. A photo of 3 megapixels takes less
#: than the first at any time; blocks beyond the second are given back at once.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES: Final = 64 << 20
_LARGE_BYTES: Final = 32 << 20

_log = structlog.get_logger(__name__)


def check_command(worker: Any, settings: Settings, registry: WorkerRegistry) -> None:  # noqa: ANN401
    """Refuse a worker command that would run jobs wrongly or not at all.

    That is: with a Redis that cannot be used; a model worker on the queue of another model, whose
    jobs it would run with its own; one without exactly one process of its own for the model; and a
    worker of a name in use.

    Raises:
        SystemExit: the command is wrong; the log says what to change.
        QueueUnavailableError: Redis does not answer.
    """
    configure_logging(settings)  # Celery configures it later
    log_unknown_variables(type(settings), only_misspelt=True)
    if problem := registry.server_problem():
        _refuse(worker, f"RMBG_REDIS_URL is {settings.redis_address}: {problem}")
    if routing.is_model_worker(worker.app):
        _check_queues(worker, settings.model)
        _check_pool(worker)
    _check_name(worker, registry)


def _check_queues(worker: Any, model: str) -> None:  # noqa: ANN401
    own = routing.model_queue(model)
    others = sorted(
        queue
        for queue in worker.app.amqp.queues.consume_from
        if queue.startswith(routing.MODEL_PREFIX) and queue != own
    )
    if others:
        _refuse(
            worker,
            f"RMBG_MODEL is {model}, and -Q names {', '.join(others)}: "
            f"take from {own}, or set RMBG_MODEL to the queue's model",
        )


def _check_pool(worker: Any) -> None:  # noqa: ANN401
    pool = concurrency.get_implementation(worker.pool_cls)
    if not issubclass(pool, TaskPool):
        _refuse(
            worker, "a model worker needs a process for its model: leave out -P, or say prefork"
        )
    if worker.concurrency != 1 or worker.options.get("autoscale"):
        _refuse(
            worker,
            "a model worker has one process: leave out -c and --autoscale, and start a worker with "
            "a name and a queue gpu.<host>.<n> of its own for each further one",
        )


def _check_name(worker: Any, registry: WorkerRegistry) -> None:  # noqa: ANN401
    name = worker.hostname
    # One that was killed is recorded for some seconds more; only a live one answers.
    if any(each.name == name and each.alive for each in registry.workers()):
        with suppress(OperationalError, RedisError, OSError):
            if worker.app.control.ping(destination=[name], timeout=_PING_SECONDS, limit=1):
                _refuse(worker, _NAME_IN_USE.format(name))


def _refuse(worker: Any, reason: str) -> None:  # noqa: ANN401
    _log.critical("worker.refused", worker=worker.hostname, reason=reason)
    raise SystemExit(_FAILURE)


def new_instance() -> str:
    """Return what tells a worker from another one of its name: the later it began, the greater."""
    return f"{time.time():017.6f}-{secrets.token_hex(4)}"


def end_namesake(name: str) -> None:
    """Log that a worker of this name began earlier, and end this one; called in its parent."""
    _log.critical("worker.refused", worker=name, reason=_NAME_IN_USE.format(name))
    os.kill(os.getpid(), _SIG_ABORT_STARTUP)


def keep_freed_memory() -> None:
    """Let the C library keep some memory from one picture to the next.

    By default it gives most of it back to the system, and each page comes anew with the next
    picture: 7,200 page faults for one of 2.7 megapixels, which took 70 ms in a virtual machine.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if set_option is not None:
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
        set_option(_MMAP_THRESHOLD, _LARGE_BYTES)


def load_served_model(
    settings: Settings, load: "Callable[..., MattingModel] | None" = None
) -> "MattingModel":
    """Load the model of these settings, warm it up, and run its self-test.

    Another `load` takes what `load_model` takes.

    Raises:
        ModelError: the file is missing or wrong, the device is missing, or the self-test failed.
    """
    # Here, because parents, I/O workers and Flower import this module without numpy.
    from inference.models.load import load_model  # noqa: PLC0415 - see above
    from inference.models.selftest import check_model_output  # noqa: PLC0415 - see above
    from tasks.worker.readiness import execution_path_facts  # noqa: PLC0415 - see above

    spec = get_spec(settings.model)
    order = settings.patch_order
    began = time.monotonic()
    model = (load or load_model)(
        spec,
        settings.model_file(spec.file_name),
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        patch_order=None if order == "auto" else PatchOrder(order),
        compile_=settings.compile,
        cache=settings.compile_dir or settings.model_dir / "compiled",
    )
    model.warm_up()
    check_model_output(model)
    took = round(time.monotonic() - began, 3)
    _log.info("worker.model_loaded", model=spec.name, seconds=took, **execution_path_facts(model))
    return model


def revision_of(settings: Settings) -> str:
    """Return the SHA-256 of the weights that these settings name; empty if the file is missing."""
    spec = get_spec(settings.model)
    if spec.sha256 is not None:
        return spec.sha256  # the loader accepts no other file
    try:
        return file_sha256(find_weights_file(spec, settings.model_file(spec.file_name)))
    except OSError:
        return ""


def prepare_parent(worker: Any) -> None:  # noqa: ANN401 - celery publishes no types
    """Check the model's file before the pool starts; no model library is loaded.

    Raises:
        SystemExit: there is no such model, or its file is missing or wrong; the log says why.
    """
    settings = Settings.load()
    configure_logging(settings)  # Celery configures it later
    try:
        spec = get_spec(settings.model)
        check_weights(spec, settings.model_file(spec.file_name))
    except ModelError as error:
        _log.critical("worker.model_unusable", model=settings.model, reason=str(error))
        raise SystemExit(_FAILURE) from error
    if not spec.commercial_use:
        reason = (
            f"{spec.title}, is under {spec.licence}: commercial use needs its authors' permission. "
            f"See {spec.licence_url}"
        )
        _log.warning("worker.non_commercial_model", model=spec.name, reason=reason)

    def end(*_: object) -> None:
        worker.exitcode = _FAILURE
        state.should_terminate = _FAILURE

    signal.signal(_SIG_ABORT_STARTUP, end)


def abort_startup(error: Exception, model: str) -> None:
    """Log why a child cannot load its model, and make its parent exit.

    Raises:
        SystemExit: the parent did not end this process in time.
    """
    if isinstance(error, ModelError):
        _log.critical("worker.model_unusable", model=model, reason=str(error))
    else:
        _log.critical("worker.load_failed", model=model, exc_info=error)
    os.kill(os.getppid(), _SIG_ABORT_STARTUP)
    time.sleep(_ABORT_SECONDS)
    raise SystemExit(_FAILURE)
