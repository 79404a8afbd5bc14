"""Log lines: bounded, whatever a caller sends."""

import logging

import pytest
import structlog

from tasks.log import MAX_TEXT, configure_logging
from tasks.settings import Settings


@pytest.mark.usefixtures("kept_loggers")
def test_a_terminal_obeys_nothing_that_a_caller_gives(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings.load(log_format="console"))
    for text in ("/a\x1b[2J\x9b31m\u202e", "/a\x1b[2J b\nc"):
        structlog.get_logger("api").error(text, path=text, exc_info=ValueError(text))
    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.usefixtures("kept_loggers")
@pytest.mark.parametrize("library", [False, True])
def test_a_text_that_a_caller_gives_is_cut(
    capsys: pytest.CaptureFixture[str], *, library: bool
) -> None:
    configure_logging(Settings.load(log_format="json"))
    if library:
        logging.getLogger("uvicorn").warning("no %s", "p" * 2**16)
    else:
        structlog.get_logger("api").warning("request", path="/" + "p" * 2**16, status=404)
    line = capsys.readouterr().out
    assert "characters)" in line
    assert len(line) < MAX_TEXT + 400
