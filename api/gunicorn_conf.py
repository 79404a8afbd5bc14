"""How gunicorn serves the API; gunicorn reads these names."""

from pathlib import Path

import structlog

from api.settings import ApiSettings
from tasks.errors import StoreUnavailableError
from tasks.storage import MinioStore

#: Threads, since a waiting request holds one; more than the waiters that are let in.
worker_class = "gthread"
workers = ApiSettings.load().api_workers
threads = 80
timeout = 120
graceful_timeout = 20
keepalive = 5
# A heartbeat file on a disk can stall a worker long enough to be killed for it.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - not a file of ours
# The application writes a line for each request.
accesslog = None
control_socket_disable = True


def on_starting(server: object) -> None:  # noqa: ARG001 - gunicorn's signature
    """Make the bucket; without a store, start all the same and answer 503 until it is there."""
    try:
        MinioStore.from_settings(ApiSettings.load()).ensure_bucket()
    except StoreUnavailableError as error:
        structlog.get_logger(__name__).warning("start.no_bucket", reason=str(error))
