"""Hooks around each request: request id, log line, span, metrics, CORS, body limit."""

from contextlib import ExitStack
from time import perf_counter
from typing import Final

import structlog
from flask import Flask, Response, g, request
from flask_cors import CORS
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.forms import STREAMED_BLUEPRINTS, StreamedBody
from api.inputs import too_large
from api.responses import failure, request_id
from api.services import Services
from tasks.metrics import instruments, scrape_registry
from tasks.queue_metrics import QueueCollector
from tasks.redis_client import PROBE_SECONDS, connect
from tasks.storage.object_store import probe_object_store
from tasks.tracing import HEADER, span
from tasks.worker_registry import WorkerRegistry

_log = structlog.get_logger(__name__)

_ERRORS_FROM: Final = 400


def install_request_log(app: Flask) -> None:
    """Log each request with its status and duration; successful health checks at debug level."""

    @app.before_request
    def _start() -> None:
        g.started = perf_counter()

    @app.after_request
    def _end(response: Response) -> Response:
        # Health checks come every few seconds; successful ones would bury the other lines.
        quiet = request.path.startswith("/healthz/") and response.status_code < _ERRORS_FROM
        # The path, never the query: a signed URL must not reach a log.
        (_log.debug if quiet else _log.info)(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            ms=round((perf_counter() - g.get("started", perf_counter())) * 1000, 1),
        )
        return response


def install_request_ids(app: Flask) -> None:
    """Bind the id to every log line of a request, and return it in a header."""

    @app.before_request
    def _bind() -> None:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id())

    @app.after_request
    def _return(response: Response) -> Response:
        response.headers["X-Request-Id"] = request_id()
        return response


#: Room for the other parameters of a request, and what separates them.
OVERHEAD_BYTES: Final = 2**20


def install_upload_limit(app: Flask, max_image_bytes: int) -> None:
    """Bound a request's body: the largest image in base64, a background file, other parameters."""
    text = -(-max_image_bytes // 3) * 4 + OVERHEAD_BYTES
    most = text + max_image_bytes
    app.config["MAX_CONTENT_LENGTH"] = most
    # Flask's own 500 kB for a form's text would refuse an image in base64.
    app.config["MAX_FORM_MEMORY_SIZE"] = text

    @app.before_request
    def _refuse() -> Response | None:
        length = request.content_length
        if length is None or length <= most or request.blueprint in STREAMED_BLUEPRINTS:
            return None
        g.body = StreamedBody(request)
        return failure(too_large(length, max_image_bytes))


#: Response headers that such a page may read.
_EXPOSED: Final = (
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Offset",
    "X-Request-Id",
)

_PREFLIGHT_SECONDS: Final = 3600


def install_cors(app: Flask, origins: tuple[str, ...]) -> None:
    """Allow the web pages of these origins to call the API; none if there are none."""
    if origins:
        CORS(
            app,
            resources={r"/api/*": {"origins": list(origins)}},
            expose_headers=list(_EXPOSED),
            max_age=_PREFLIGHT_SECONDS,
        )


def install_tracing(app: Flask) -> None:
    """Make each request a span, under the trace that its caller sent."""

    @app.before_request
    def _begin() -> None:
        route = request.url_rule.rule if request.url_rule else "none"
        g.tracing = ExitStack()
        given = request.headers.get(HEADER, "")
        g.tracing.enter_context(span(f"{request.method} {route}", parent=given))

    @app.teardown_request
    def _end(_error: BaseException | None) -> None:
        tracing = g.pop("tracing", None)
        if tracing is not None:
            tracing.close()


METRICS_PATH: Final = "/metrics"
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def install_metrics(app: Flask, queues: QueueCollector) -> None:
    """Count each request, and serve the metrics to Prometheus."""

    @app.before_request
    def _start() -> None:
        g.metrics_started = perf_counter()

    @app.after_request
    def _count(response: Response) -> Response:
        count_request(response.status_code)
        return response

    @app.get(METRICS_PATH)
    def _metrics() -> Response:
        return Response(generate_latest(scrape_registry(queues)), content_type=CONTENT_TYPE_LATEST)


def queue_metrics(services: Services) -> QueueCollector:
    """Make the collector of what Redis knows, on connections with a short timeout."""
    settings = services.settings
    quick = connect(settings.redis_url.get_secret_value(), timeout=PROBE_SECONDS)
    return QueueCollector(quick, WorkerRegistry(quick), lambda: probe_object_store(settings))


def count_request(status: int) -> None:
    """Count this request under its route's pattern, since a path holds ids."""
    method = request.method if request.method in _METHODS else "other"
    route = request.url_rule.rule if request.url_rule else "none"
    took = perf_counter() - g.get("metrics_started", perf_counter())
    instruments().http_requests.labels(method, route, str(status)).inc()
    instruments().http_seconds.labels(method, route).observe(took)
