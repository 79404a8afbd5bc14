"""A worker whose model cannot be served ends, and says why.

Celery by itself logs what a child's initialiser raises, and lets that child take jobs. So the
parent looks at the model's file before it starts its pool, and a child that cannot load the model
tells the parent to end with status 1; whoever runs the worker decides on a restart.
"""

import os
import signal
import time
from typing import Any, Final

import structlog
from celery import Celery
from celery.worker import state

from inference.errors import ModelError
from inference.models.base import HasExecutionPath, MattingModel
from inference.models.birefnet.config import PatchOrder
from inference.models.load import load_model
from inference.models.registry import ModelSpec, get_spec
from inference.models.selftest import check_model_output
from inference.models.weights import check_weights, file_sha256, find_weights_file
from tasks.jobs import routing
from tasks.log import configure_logging
from tasks.settings import Settings

_FAILURE: Final = 1
#: Celery leaves this one alone; its SIGQUIT waits for the soft shutdown, and its SIGTERM ends in 0.
_SIG_ABORT_STARTUP: Final = signal.SIGUSR2
#: How long a child that cannot load waits to be ended, so that no other is started meanwhile.
_RETRY_PAUSE_SECONDS: Final = 20.0

_log = structlog.get_logger(__name__)


def serves_a_model(app: Celery) -> bool:
    """Whether the queues that this worker takes from hold jobs for a model."""
    return any(routing.is_model_queue(queue) for queue in app.amqp.queues.consume_from)


def check_served_model(settings: Settings) -> ModelSpec:
    """Look at the model's file before anything is started; no model library is loaded.

    Raises:
        ModelError: there is no such model, or its file will not do.
    """
    spec = get_spec(settings.model)
    check_weights(spec, settings.model_file(spec.file_name))
    return spec


def load_served_model(settings: Settings) -> MattingModel:
    """The model of these settings, warmed up; it has shown that it sees.

    Raises:
        ModelError: the file is missing or wrong, the device is not there, or the model is blind.
    """
    spec = get_spec(settings.model)
    order = settings.patch_order
    began = time.monotonic()
    model = load_model(
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
    """SHA-256 of the weights that these settings name; empty if there is no such file."""
    spec = get_spec(settings.model)
    if spec.sha256 is not None:
        return spec.sha256  # the loader takes no other
    try:
        return file_sha256(find_weights_file(spec, settings.model_file(spec.file_name)))
    except OSError:
        return ""


def execution_path_facts(model: MattingModel) -> dict[str, str]:
    """How the model is run, and why not in a quicker way, where there is more than one way."""
    if not isinstance(model, HasExecutionPath):
        return {}
    return {"path": model.path, "path_reason": model.path_reason}


def prepare_parent(worker: Any) -> None:  # noqa: ANN401 - celery publishes no types
    """Before the pool starts: end with status 1 if the model's file will not do.

    Raises:
        SystemExit: it will not; the log says why.
    """
    settings = Settings.load()
    configure_logging(settings)  # Celery has not done so yet
    try:
        spec = check_served_model(settings)
    except ModelError as error:
        _log.critical("worker.model_unusable", model=settings.model, reason=str(error))
        raise SystemExit(_FAILURE) from error
    if not spec.commercial_use:
        _log.warning("worker.non_commercial_model", model=spec.name, reason=_license_notice(spec))
    _exit_on_abort_signal(worker)


def abort_startup(error: Exception, model: str) -> None:
    """In a child that cannot load its model: say why, and have the parent end.

    Raises:
        SystemExit: the parent did not end this process within a while.
    """
    if isinstance(error, ModelError):
        _log.critical("worker.model_unusable", model=model, reason=str(error))
    else:
        _log.critical("worker.load_failed", model=model, exc_info=error)
    os.kill(os.getppid(), _SIG_ABORT_STARTUP)
    time.sleep(_RETRY_PAUSE_SECONDS)
    raise SystemExit(_FAILURE)


def _license_notice(spec: ModelSpec) -> str:
    return (
        f"{spec.title}, is under {spec.licence}: commercial use needs its authors' permission. "
        f"See {spec.licence_url}"
    )


def _exit_on_abort_signal(worker: Any) -> None:  # noqa: ANN401 - celery publishes no types
    def end(*_: object) -> None:
        worker.exitcode = _FAILURE
        state.should_terminate = _FAILURE

    signal.signal(_SIG_ABORT_STARTUP, end)
