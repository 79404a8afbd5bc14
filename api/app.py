"""The Flask application."""

from time import perf_counter
from typing import Any, Final

import structlog
from flask import Flask, Response, g, request
from flask_swagger_ui import get_swaggerui_blueprint

from api.auth import install_auth
from api.context import EXTENSION
from api.cors import install_cors
from api.envelope import install_request_ids
from api.failures import EnvelopeApi, install_error_handlers
from api.limits import install_rate_headers
from api.metrics import install_metrics, queue_metrics
from api.removebg.resource import install_removebg
from api.resources import batches, deliveries, health, info, removals, tasks, uploads
from api.services import Services
from api.settings import ApiSettings
from api.strict_json import StrictJsonProvider
from api.tracing import install_tracing
from api.upload_limit import install_upload_limit
from inference.version import __version__
from tasks.log import configure_logging
from tasks.tracing import configure_tracing

#: Where an application keeps its `EnvelopeApi`, which can describe it.
API: Final = "rmbg.api"

_log = structlog.get_logger(__name__)
_ERRORS_FROM: Final = 400


def create_app(services: Services | None = None) -> Flask:
    """The application: with these services, or those that the environment's settings describe.

    Raises:
        SettingsError: a setting is wrong; the text lists all faults.
    """
    services = services or _services_from_environment()
    # No static folder: this package serves no files of its own.
    app = Flask("api", static_folder=None)
    app.extensions[EXTENSION] = services
    app.json = StrictJsonProvider(app)
    app.config.update(_configuration())
    install_request_ids(app)
    _log_requests(app)
    install_tracing(app)
    install_metrics(app, queue_metrics(services))
    install_cors(app, services.settings.cors_allowed)
    install_upload_limit(app, services.settings.max_image_bytes)
    install_auth(app)
    install_rate_headers(app)
    install_error_handlers(app)
    _add_routes(app)
    install_removebg(app)
    return app


def _services_from_environment() -> Services:
    settings = ApiSettings.load()
    configure_logging(settings)
    configure_tracing(settings, "rmbg-api")
    return Services.from_settings(settings)


def _add_routes(app: Flask) -> None:
    api = EnvelopeApi(app)
    app.extensions[API] = api
    for resource in (removals, batches, uploads, tasks, deliveries, info, health):
        api.register_blueprint(resource.blueprint)
    documentation = get_swaggerui_blueprint(
        "/docs", "/openapi.json", config={"app_name": "rmbg-queue", "validatorUrl": None}
    )
    app.register_blueprint(documentation)


def _configuration() -> dict[str, Any]:
    return {
        "API_TITLE": "rmbg-queue",
        "API_VERSION": __version__,
        "OPENAPI_VERSION": "3.1.0",
        "OPENAPI_URL_PREFIX": "/",
        "OPENAPI_JSON_PATH": "openapi.json",
    }


def _log_requests(app: Flask) -> None:
    @app.before_request
    def _start() -> None:
        g.started = perf_counter()

    @app.after_request
    def _end(response: Response) -> Response:
        # Probes come every few seconds and tell nothing when they succeed.
        quiet = request.path.startswith("/healthz/") and response.status_code < _ERRORS_FROM
        # The path, never the query: a signed address must not reach a log.
        (_log.debug if quiet else _log.info)(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            ms=round((perf_counter() - g.get("started", perf_counter())) * 1000, 1),
        )
        return response
