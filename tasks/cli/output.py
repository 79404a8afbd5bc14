"""What commands print: tables, JSON, confirmations and errors."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import click

from tasks.errors import TaskError


class CommandError(TaskError):
    """Root of what the commands refuse."""

    code: ClassVar[str] = "command_refused"


class NotConfirmedError(CommandError):
    """The question was not answered with yes."""

    code = "not_confirmed"


class UnknownQueueError(CommandError):
    """No queue of jobs has that name."""

    code = "unknown_queue"


class UnknownWorkerError(CommandError):
    """No worker has that name."""

    code = "unknown_worker"


class UnknownJobError(CommandError):
    """No record has that id."""

    code = "unknown_job"


class UnknownDeliveryError(CommandError):
    """No webhook has that id."""

    code = "unknown_webhook"


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command found or did.

    Attributes:
        document: all of it, for `--json`.
        lines: the same for people, on standard output.
        notes: what else people should know, on standard error.
        failed: something that was asked for could not be done.
    """

    document: dict[str, Any]
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    failed: bool = False


class OutputCommand(click.Command):
    """A command that returns an `Answer`; it prints it, and exits with 1 if something failed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - click's signature
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(["--json", "as_json"], is_flag=True, help="Answer in one JSON document.")
        )

    def invoke(self, ctx: click.Context) -> None:
        """Run, then print."""
        as_json = ctx.params.pop("as_json")
        try:
            answer = super().invoke(ctx)
        except TaskError as error:
            answer = CommandOutput(
                {"error": {"type": error.code, "message": str(error)}},
                notes=[str(error)],
                failed=True,
            )
        _print_output(answer, as_json=as_json)
        if answer.failed:
            ctx.exit(1)


def _print_output(answer: CommandOutput, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer.document))
        return
    for line in answer.lines:
        click.echo(line)
    for note in answer.notes:
        click.echo(note, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on standard error, unless the answer was given.

    Raises:
        NotConfirmedError: the answer is no, or there is nobody to ask.
    """
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        agreed = False
        click.echo(err=True)
    if not agreed:
        raise NotConfirmedError("Nothing was changed. Answer y, or give --yes, to go on.")


#: For commands that end work, or change much of it at once.
yes_option: Callable[..., Any] = click.option("--yes", is_flag=True, help="Do not ask.")


@dataclass(slots=True)
class Table:
    """Aligned columns without frames, that `grep` and `awk` can work with."""

    heading: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The heading and the rows; nothing if there are no rows."""
        if not self.rows:
            return []
        table = [self.heading, *self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]


def local_time(unix_seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC, to the second."""
    if unix_seconds is None:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """A duration for people, such as `42s`, `7m` or `3.5h`."""
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f}s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h"
