"""`rmbg`: standard output holds the answer and nothing else."""

import pytest
import structlog
from typer.testing import CliRunner

from deploy.cli import main, output


@pytest.mark.usefixtures("kept_loggers")
def test_a_line_that_a_command_logs_is_no_part_of_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = structlog.get_logger("version")
    monkeypatch.setattr(main.typer, "echo", lambda _: log.warning("clock.jumped"))
    done = CliRunner().invoke(main.app, ["version"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "clock.jumped" in done.stderr


def test_a_sentence_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("host:x:1 [bold] " * 20)
    assert capsys.readouterr().err == "host:x:1 [bold] " * 20 + "\n"
