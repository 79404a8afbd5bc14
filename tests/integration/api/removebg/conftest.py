"""The remove.bg API in this process, without a worker."""

import pytest


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no worker here: what gets so far that it is waited for has been accepted."""
    monkeypatch.setattr("api.removebg.route.WAIT_SECONDS", 0.05)
