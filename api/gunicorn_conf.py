"""How gunicorn serves the API; gunicorn reads these names."""

import gc
from typing import Any

import structlog

from api.auth import LOOPBACK_ONLY, loopback_only, refuse_public_bind_without_keys
from api.settings import ApiSettings
from tasks.errors import ObjectStoreUnavailableError, SettingsError
from tasks.log import configure_logging, log_unknown_variables
from tasks.metrics import make_shared_folder, memory_folder, remove_shared_folder, use_shared_folder
from tasks.runtime import Runtime

worker_class = "api.server.ApiWorker"
workers = ApiSettings.load().api_workers
timeout = 120
graceful_timeout = 20
# A heartbeat file on a disk can stall a worker long enough to be killed for it.
worker_tmp_dir = str(memory) if (memory := memory_folder()) else None
# The application writes a line for each request.
accesslog = None
control_socket_disable = True


def on_starting(server: Any) -> None:  # noqa: ANN401 - gunicorn publishes no types
    """Refuse a public address without API keys, and create the bucket if S3 answers.

    Raises:
        SystemExit: others could reach the service, and there is no API key; or the audit log cannot
            be written.
    """
    # All workers share their metrics: a scrape reaches any of them.
    make_shared_folder()
    settings = ApiSettings.load()
    try:
        configure_logging(settings, audit_log=settings.audit_log)
        log_unknown_variables(ApiSettings)
        with Runtime(settings) as runtime:
            refuse_public_bind_without_keys(settings, server.cfg.address, runtime.api_keys)
            runtime.object_store.ensure_bucket()
    except SettingsError as error:
        raise SystemExit(str(error)) from error
    except ObjectStoreUnavailableError as error:
        structlog.get_logger(__name__).warning("start.no_bucket", reason=str(error))


def post_fork(server: object, worker: object) -> None:  # noqa: ARG001 - gunicorn's signature
    """Let a worker, before it loads the application, count into the shared metrics folder."""
    use_shared_folder()


def worker_exit(server: object, worker: object) -> None:  # noqa: ARG001 - gunicorn's signature
    """Spare the interpreter's last collections, which look through all modules, to no use."""
    gc.freeze()


def on_exit(server: object) -> None:  # noqa: ARG001 - gunicorn's signature
    """Remove the shared metrics folder, and end as soon as the workers do."""
    remove_shared_folder()
    gc.freeze()


def post_worker_init(worker: Any) -> None:  # noqa: ANN401 - gunicorn publishes no types
    """Set in the application's configuration whether only this machine can reach it."""
    bound = [socket.getsockname() for socket in worker.sockets]
    worker.wsgi.config[LOOPBACK_ONLY] = loopback_only(bound)
