"""Commands: standard output holds the answer and nothing else."""

import json
from types import SimpleNamespace

import pytest
import structlog
from celery.bin.base import CLIContext
from click.testing import CliRunner

from tasks.cli import output
from tasks.cli.output import CommandOutput, OutputCommand


@pytest.mark.usefixtures("kept_loggers")
def test_a_line_that_a_command_logs_is_no_part_of_its_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "runtime_of", lambda _: None)

    def report(**_: object) -> CommandOutput:
        structlog.get_logger("store").warning("redis.slow")
        return CommandOutput({"jobs": []})

    context = CLIContext(app=SimpleNamespace(), no_color=True, workdir=None)
    command = OutputCommand("report", callback=report)
    done = CliRunner().invoke(command, ["--json"], obj=context)
    assert json.loads(done.stdout) == {"jobs": []}
    assert "redis.slow" in done.stderr
