"""Around each request: its id, log line, span and metrics, CORS, the body limit, and the envelope.

Every JSON answer has the same envelope: `code`, `message`, `data`, `request_id`, and `error` in a
failure.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, cast

import structlog
from flask import Flask, Response, current_app, g, jsonify, request
from flask_cors import CORS
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr

from api.auth import FOR_OWNERS, current_owner, services
from api.callers import came_by_proxy
from api.errors import ApiError, from_inference
from api.inputs import too_large
from api.origins import host_name, is_loopback
from api.quotas import from_quota, note_usage
from api.settings import ApiSettings
from api.wsgi_bridge import MAX_BODY, REFUSAL, REQUEST_ID, STARTED, judged_head_only
from inference.errors import InferenceError
from tasks.errors import (
    ObjectStoreFullError,
    ObjectStoreUnavailableError,
    QueueFullError,
    QueueUnavailableError,
    QuotaExceededError,
    StoreFullError,
    UnreadableRecordError,
    UploadError,
)
from tasks.metrics import instruments, scrape_registry
from tasks.object_store import probe_object_store
from tasks.queue_metrics import QueueCollector
from tasks.redis_client import PROBE_SECONDS
from tasks.runtime import Runtime
from tasks.tracing import HEADER, span

_log = structlog.get_logger(__name__)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def install_request_hooks(app: Flask) -> None:
    """Give each request an id, a span, a log line and its place in the metrics."""

    @app.before_request
    def _begin() -> None:
        g.started = request.environ.get(STARTED) or perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id())
        # A span under the trace that the caller sent.
        g.tracing = ExitStack()
        parent = request.headers.get(HEADER, "")
        g.tracing.enter_context(span(f"{request.method[:16]} {_route()}", parent=parent))

    @app.after_request
    def _end(response: Response) -> Response:
        _protect(response)
        if judged_head_only():
            return response
        seconds = perf_counter() - g.started
        method = request.method if request.method in _METHODS else "other"
        status = response.status_code
        instruments().http_requests.labels(method, _route(), str(status)).inc()
        instruments().http_seconds.labels(method, _route()).observe(seconds)
        # Health checks come every few seconds; successful ones would bury the other lines.
        quiet = request.path.startswith("/healthz/") and status < HTTPStatus.BAD_REQUEST
        # The path, never the query: a signed URL must not reach a log.
        (_log.debug if quiet else _log.info)(
            "request",
            method=request.method,
            path=request.path,
            status=status,
            ms=round(seconds * 1000, 1),
        )
        response.headers["X-Request-Id"] = request_id()
        return response

    @app.teardown_request
    def _close(_error: BaseException | None) -> None:
        tracing = g.pop("tracing", None)
        if tracing is not None:
            tracing.close()


def _protect(response: Response) -> None:
    """Say what caches and browsers may do with an answer, where its handler has not said it.

    A cache between a caller and the service does not know that `X-API-Key` tells callers apart
    (RFC 9111, 3.5, does so for `Authorization` alone); in a frame of a foreign page, `/docs` would
    be a page of the service that the foreign one has people click on.
    """
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("X-Frame-Options", "DENY")
    if request.path.startswith(FOR_OWNERS):
        response.headers.setdefault("Cache-Control", "no-store")


def request_id() -> str:
    """Return this request's id: the caller's own if it is a plain word, else a fresh one."""
    if REQUEST_ID not in request.environ:
        given = request.headers.get("X-Request-Id", "")
        known = given if _REQUEST_ID.match(given) else f"req-{secrets.token_hex(8)}"
        request.environ[REQUEST_ID] = known
    return str(request.environ[REQUEST_ID])


def _route() -> str:
    """Return the pattern of the request's route, since a path holds ids."""
    return request.url_rule.rule if request.url_rule else "none"


def install_metrics(app: Flask, settings: ApiSettings) -> None:
    """Serve the metrics to Prometheus, with what Redis knows, read within a short timeout."""
    quick = Runtime(settings, redis_timeout=PROBE_SECONDS)
    queues = QueueCollector(
        quick.redis,
        quick.registry,
        lambda: probe_object_store(settings, quick.object_store.role),
        quick.capacity,
    )

    @app.get("/metrics")
    def _metrics() -> Response:
        _check_scraper(settings.metrics_token)
        return Response(generate_latest(scrape_registry(queues)), content_type=CONTENT_TYPE_LATEST)


def _check_scraper(token: SecretStr | None) -> None:
    """Let in who has the token; without one, who calls from this machine by its own name.

    Raises:
        ApiError: `unauthorized` or `forbidden`.
    """
    if token is not None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        expected = token.get_secret_value().encode()
        if scheme.lower() == "bearer" and secrets.compare_digest(given.encode(), expected):
            return
        raise ApiError("unauthorized", "Send RMBG_METRICS_TOKEN: `Authorization: Bearer <token>`.")
    local = is_loopback(request.remote_addr or "") and is_loopback(host_name(request.host))
    if not local or came_by_proxy(request.headers):
        raise ApiError(
            "forbidden",
            "/metrics answers this machine alone; set RMBG_METRICS_TOKEN to ask from elsewhere.",
        )


#: Room for the other parameters of a request, and what separates them.
OVERHEAD_BYTES: Final = 2**20


def install_upload_limit(app: Flask, settings: ApiSettings) -> None:
    """Bound a request's body: the largest image in base64, a background file, other parameters.

    The handlers of `STREAMED_BLUEPRINTS` name a limit of their own in words.
    """
    max_image_bytes = settings.max_image_bytes
    text = -(-max_image_bytes // 3) * 4 + OVERHEAD_BYTES
    most = text + max_image_bytes
    per_file = max_image_bytes + OVERHEAD_BYTES
    of_blueprint = {"uploads": per_file, "batches": per_file * settings.max_batch_images}
    app.config["MAX_CONTENT_LENGTH"] = most
    # Flask's own 500 kB for a form's text would refuse an image in base64.
    app.config["MAX_FORM_MEMORY_SIZE"] = text

    @app.before_request
    def _refuse() -> None:
        environ = request.environ
        if REFUSAL in environ:
            raise ApiError(environ[REFUSAL])
        length, bound = request.content_length, of_blueprint.get(request.blueprint or "", most)
        if length is not None and length > bound and request.blueprint not in of_blueprint:
            raise too_large(length, max_image_bytes)
        environ[MAX_BODY] = bound


_KEEPING: Final = frozenset({"POST", "PUT", "PATCH"})
#: The endpoint whose POST may stand for another method, for tus clients that can only send POST.
_METHOD_OVERRIDDEN: Final = "uploads.Upload"
#: Endpoints whose POST keeps nothing: they end a job or send a webhook again.
_KEEPS_NOTHING: Final = frozenset(
    {"tasks.TaskCancel", "batches.BatchCancel", "deliveries.DeliveryReplay"}
)


def install_room_check(app: Flask) -> None:
    """Refuse what would keep something while there is no room, before a body is read.

    Reading, canceling and erasing go on.
    """

    @app.before_request
    def _refuse() -> None:
        method = request.method
        if request.endpoint == _METHOD_OVERRIDDEN:
            method = request.headers.get("X-HTTP-Method-Override", method).upper()
        found = request.endpoint is not None
        if found and method in _KEEPING and request.endpoint not in _KEEPS_NOTHING:
            runtime = services().runtime
            runtime.capacity.require_room()
            if runtime.capacity.scarce_bytes and method == "POST":
                runtime.quotas.require_share(current_owner(), runtime.capacity.scarce_bytes)


#: Response headers that a page of another origin may read.
_EXPOSED: Final = (
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "Quota",
    "Quota-Policy",
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


def install_cors(
    app: Flask, origins: tuple[str, ...], *, path: str = "/api/", exposed: Iterable[str] = _EXPOSED
) -> None:
    """Allow the web pages of these origins to call what is below a path; none without origins."""
    if origins:
        # As it stands, the library would take an IPv6 address in brackets for a regular expression.
        exact = [re.compile(rf"{re.escape(origin)}\Z", re.IGNORECASE) for origin in origins]
        CORS(
            app,
            resources={f"{re.escape(path)}.*": {"origins": "*" if "*" in origins else exact}},
            expose_headers=list(exposed),
            max_age=_PREFLIGHT_SECONDS,
        )


#: Key of the extension that holds the other shapes of failures by path prefix.
_SHAPES: Final = "rmbg-failure-shapes"


def install_error_handlers(app: Flask) -> None:
    """Answer the project's exceptions and unexpected ones with rows of the table of errors."""

    @app.errorhandler(ApiError)
    def _api(error: ApiError) -> Response:
        return failure(error)

    @app.errorhandler(InferenceError)
    def _inference(error: InferenceError) -> Response:
        return failure(from_inference(error))

    @app.errorhandler(UploadError)
    def _upload(error: UploadError) -> Response:
        return failure(ApiError(error.code, str(error)))

    @app.errorhandler(StoreFullError)
    def _full(error: StoreFullError) -> Response:
        if isinstance(error, ObjectStoreFullError):
            services().runtime.capacity.note_full_object_store()
        _log.warning("request.not_accepted", reason=str(error))
        return failure(ApiError(error.code))

    @app.errorhandler(QueueFullError)
    @app.errorhandler(QueueUnavailableError)
    @app.errorhandler(ObjectStoreUnavailableError)
    def _unavailable(
        error: QueueFullError | QueueUnavailableError | ObjectStoreUnavailableError,
    ) -> Response:
        _log.warning("request.not_accepted", reason=str(error))
        return failure(ApiError(error.code))

    @app.errorhandler(QuotaExceededError)
    def _quota(error: QuotaExceededError) -> Response:
        with suppress(QueueUnavailableError):
            note_usage(services().runtime.quotas.usage(current_owner()))
        return failure(from_quota(error))

    @app.errorhandler(UnreadableRecordError)
    def _unreadable(error: UnreadableRecordError) -> Response:
        _log.error("record.unreadable", task_id=error.task_id, reason=error.reason)
        return failure(ApiError("task_unreadable"))

    @app.errorhandler(Exception)
    def _unforeseen(_error: Exception) -> Response:
        _log.exception("request.crashed")
        return failure(ApiError("internal_error"))


def shape_failures(app: Flask, prefix: str, shape: Callable[[ApiError], Response]) -> None:
    """Answer all errors below a path prefix in another shape."""
    app.extensions.setdefault(_SHAPES, {})[prefix] = shape


def failure(error: ApiError) -> Response:
    """Make the response for an error, in the envelope or in the shape of the path's prefix."""
    for prefix, shape in current_app.extensions.get(_SHAPES, {}).items():
        if request.path.startswith(prefix):
            return cast("Response", shape(error))
    answer = jsonify(
        {
            "code": error.row.code,
            "message": str(error),
            "data": None,
            "error": {"type": error.row.type, "fields": error.fields},
            "request_id": request_id(),
        }
    )
    answer.status_code = error.row.status
    if error.row.status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def success(data: object) -> dict[str, Any]:
    """Put data into the envelope, for a schema made by `schemas.envelope`."""
    return {"code": 0, "message": "success", "data": data, "request_id": request_id()}
