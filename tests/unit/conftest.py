"""What tests of commands and logs share."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def kept_loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the loggers that `configure_logging` changes back."""
    # One that keeps its configuration from its first use on.
    monkeypatch.setattr("tasks.audit._log", structlog.get_logger("audit"))
    loggers = [logging.getLogger(name) for name in ("", "audit", "kombu", "urllib3")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    structlog.reset_defaults()
    for handler in logging.getLogger("audit").handlers:
        handler.close()
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)
