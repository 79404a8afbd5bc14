"""The Flask application."""

from typing import Final

from flask import Flask
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.middleware.proxy_fix import ProxyFix

from api.auth import SERVICES_EXTENSION, install_auth
from api.callers import TRUSTED_PROXIES
from api.forms import StrictJsonProvider, install_bodies
from api.openapi import EnvelopeApi
from api.quotas import install_quota_headers
from api.rate_limits import install_rate_headers
from api.removebg.route import install_removebg
from api.request_hooks import (
    install_cors,
    install_error_handlers,
    install_metrics,
    install_request_hooks,
    install_room_check,
    install_upload_limit,
)
from api.routes import batches, deliveries, health, info, ops, submissions, tasks, uploads
from api.services import Services
from api.settings import ApiSettings
from api.web import pages
from api.wsgi_bridge import PUBLIC_ADDRESS, ApiFlask
from inference.version import __version__
from tasks.log import configure_logging
from tasks.tracing import configure_tracing

#: Key of the extension that holds an application's `EnvelopeApi`, which describes it.
API_EXTENSION: Final = "rmbg.api"


def create_app(services: Services | None = None) -> Flask:
    """Create the application with these services, or with services from the environment's settings.

    Raises:
        SettingsError: a setting is wrong; the text lists all faults.
    """
    services = services or _services_from_environment()
    # No static folder: the pages' files are served by their own blueprint.
    app = ApiFlask("api", static_folder=None)
    app.extensions[SERVICES_EXTENSION] = services
    app.json = StrictJsonProvider(app)
    app.config.update(
        API_TITLE="rmbg-queue",
        API_VERSION=__version__,
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
    )
    _set_addresses(app, services.settings)
    install_request_hooks(app)
    install_metrics(app, services.settings)
    install_cors(app, services.settings.cors_allowed)
    install_bodies(app)
    install_upload_limit(app, services.settings)
    install_auth(app)
    install_room_check(app)
    install_rate_headers(app)
    install_quota_headers(app)
    install_error_handlers(app)
    _add_routes(app)
    install_removebg(app, services.settings.cors_allowed)
    return app


def _services_from_environment() -> Services:
    settings = ApiSettings.load()
    configure_logging(settings, audit_log=settings.audit_log)
    configure_tracing("rmbg-api")
    return Services.from_settings(settings)


def _set_addresses(app: Flask, settings: ApiSettings) -> None:
    """Set where URLs come from: the public URL, else what trusted proxies say, else `Host`."""
    app.config[PUBLIC_ADDRESS] = settings.public_address
    proxies = settings.trusted_proxies
    app.config[TRUSTED_PROXIES] = proxies
    if proxies:
        fixed = ProxyFix(
            app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies, x_prefix=proxies
        )
        app.wsgi_app = fixed  # type: ignore[method-assign] # as Flask advises


def _add_routes(app: Flask) -> None:
    api = EnvelopeApi(app)
    app.extensions[API_EXTENSION] = api
    for resource in (submissions, batches, uploads, tasks, deliveries, ops, info, health):
        api.register_blueprint(resource.blueprint)
    app.register_blueprint(pages.blueprint)
    # Its own addresses are relative, so that they hold below any path.
    documentation = get_swaggerui_blueprint(
        ".",
        "../openapi.json",
        config={
            "app_name": "rmbg-queue",
            "validatorUrl": None,
            "oauth2RedirectUrl": "oauth2-redirect.html",
        },
    )
    app.register_blueprint(documentation, url_prefix="/docs")
