"""A worker's own port for Prometheus, served by its parent: it outlives every child."""

import errno
from typing import Any, Final

import structlog
from celery import bootsteps
from prometheus_client import start_http_server

from tasks import names
from tasks.meters import make_shared_folder, meters, remove_shared_folder, scraped, share
from tasks.settings import Settings
from tasks.worker.gpu_metrics import gpu_metrics

#: A model worker has one child at a time, and each goes on where the one before ended.
_CHILD: Final = "child"

_log = structlog.get_logger(__name__)


class MetricsStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Serves what this worker counts, if it has a port for that."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._settings = Settings.load()
        self._server: Any = None
        self._prefork = worker.pool_cls.__module__.endswith("prefork")
        if self._prefork:
            # Before the pool starts its child, which finds the folder in its environment.
            make_shared_folder()

    def start(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """Begin to listen; without the port, the worker works all the same."""
        port = self._settings.metrics_port
        if not port:
            return
        more = gpu_metrics(worker.hostname) if _serves_a_model(worker) else ()
        try:
            self._server, _ = start_http_server(
                port, addr=self._settings.metrics_address, registry=scraped(*more)
            )
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            advice = "set RMBG_METRICS_PORT to a free one" if taken else "see RMBG_METRICS_ADDRESS"
            _log.error("metrics.not_served", port=port, reason=str(error), advice=advice)

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - the same
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def terminate(self, worker: Any) -> None:  # noqa: ANN401 - the same
        """The worker ends, its child first."""
        self.stop(worker)
        if self._prefork:
            remove_shared_folder()


def share_as_child() -> None:
    """In a worker's child: count where the one before it stopped counting."""
    share(_CHILD)


def count_load(model: str, worker: str, seconds: float) -> None:
    """A child has loaded its model."""
    meters().model_loads.labels(model, worker).inc()
    meters().model_load_seconds.labels(model, worker).set(seconds)


def _serves_a_model(worker: Any) -> bool:  # noqa: ANN401 - the same
    return any(names.is_model_queue(name) for name in worker.app.amqp.queues.consume_from)
