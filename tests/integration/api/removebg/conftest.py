"""The remove.bg API in this process, without a worker."""

import pytest

from api.services import Services
from tests.support.services import services_on


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no worker here: what gets so far that it is waited for has been accepted."""
    monkeypatch.setattr("api.removebg.route.WAIT_SECONDS", 0.05)


@pytest.fixture
def services(server_settings: dict[str, object], objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return services_on(server_settings, max_image_mb=2)
