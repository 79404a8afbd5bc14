"""Services on a Redis database of a test's own."""

from api.services import Services
from api.settings import ApiSettings


def services_on(server_settings: dict[str, object], **settings: object) -> Services:
    """Return services with these settings."""
    return Services.from_settings(ApiSettings.load(**{**server_settings, **settings}))
