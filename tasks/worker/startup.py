"""Startup of a model worker: check the weights, load the model, and abort if either fails.

Celery only logs what a child's initializer raises, and lets that child take jobs. So the parent
checks the model's file before it starts its pool, and a child that cannot load the model signals
the parent to exit with status 1; the supervisor decides on a restart.
"""

import os
import signal
import time
from typing import Any, Final

import structlog
from celery.worker import state

from inference.errors import ModelError
from inference.models.base import HasExecutionPath, MattingModel
from inference.models.birefnet.config import PatchOrder
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.models.selftest import check_model_output
from inference.models.weights import check_weights, file_sha256, find_weights_file
from tasks.log import configure_logging
from tasks.settings import Settings

_FAILURE: Final = 1
#: A signal that Celery does not use: SIGQUIT waits for the soft shutdown, SIGTERM exits with 0.
_SIG_ABORT_STARTUP: Final = signal.SIGUSR2
#: How long a child that cannot load waits for its end, so that Celery starts no other meanwhile.
_ABORT_SECONDS: Final = 20.0

_log = structlog.get_logger(__name__)


def load_served_model(settings: Settings) -> MattingModel:
    """Load the model of these settings, warm it up, and run its self-test.

    Raises:
        ModelError: the file is missing or wrong, the device is missing, or the self-test failed.
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
    """Return the SHA-256 of the weights that these settings name; empty if the file is missing."""
    spec = get_spec(settings.model)
    if spec.sha256 is not None:
        return spec.sha256  # the loader accepts no other file
    try:
        return file_sha256(find_weights_file(spec, settings.model_file(spec.file_name)))
    except OSError:
        return ""


def execution_path_facts(model: MattingModel) -> dict[str, str]:
    """Return a model's execution path, and why it is not a faster one; empty if it has only one."""
    if not isinstance(model, HasExecutionPath):
        return {}
    return {"path": model.path, "path_reason": model.path_reason}


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
