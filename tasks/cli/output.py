"""What commands have in common: output as text or JSON, questions, errors, and bulk changes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import click

from tasks.errors import TaskError, UnreadableRecordError

#: The option of commands that end jobs, or change many at once.
yes_option: Callable[..., Any] = click.option("--yes", is_flag=True, help="Do not ask.")
#: The outcome of a change that found no record.
MISSING_NOTE = "missing"


class CommandError(TaskError):
    """Root of the errors of commands."""

    code: ClassVar[str] = "command_refused"


class NotConfirmedError(CommandError):
    """The operator did not confirm a change."""

    code = "not_confirmed"


class UnknownQueueError(CommandError):
    """There is no queue of jobs with this name."""

    code = "unknown_queue"


class UnknownWorkerError(CommandError):
    """There is no worker with this name."""

    code = "unknown_worker"


class UnknownJobError(CommandError):
    """There is no job with this id."""

    code = "unknown_job"


class UnknownDeliveryError(CommandError):
    """There is no delivery with this id."""

    code = "unknown_webhook"


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """The output of a command.

    Attributes:
        document: everything, for `--json`.
        lines: text for standard output.
        notes: warnings and advice for standard error.
        failed: something could not be done.
    """

    document: dict[str, Any]
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    failed: bool = False


class OutputCommand(click.Command):
    """A command that prints the `CommandOutput` it returns; it exits with 1 if that has failed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - click's signature
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document.")
        )

    def invoke(self, ctx: click.Context) -> None:
        """Run the command, then print its output or its error."""
        as_json = ctx.params.pop("as_json")
        try:
            output = super().invoke(ctx)
        except TaskError as error:
            output = CommandOutput(
                {"error": {"type": error.code, "message": str(error)}},
                notes=[str(error)],
                failed=True,
            )
        _print_output(output, as_json=as_json)
        if output.failed:
            ctx.exit(1)


def _print_output(output: CommandOutput, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(output.document))
        return
    for line in output.lines:
        click.echo(line)
    for note in output.notes:
        click.echo(note, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on standard error, unless `--yes` was given.

    Raises:
        NotConfirmedError: the answer is no, or there is no terminal.
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


@dataclass(slots=True)
class Table:
    """Aligned columns without frames, which suit `grep` and `awk`."""

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
    """Format a time as ISO 8601 in UTC, to the second."""
    if unix_seconds is None:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """Format a duration, such as `42s`, `7m` or `3.5h`."""
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f}s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h"


@dataclass(slots=True)
class BulkChange:
    """One change to several jobs or deliveries, and its outcome for each.

    Attributes:
        done: the outcome of a success, such as `requeued`.
        rule: a sentence that says which ones can be changed.
        changed: ids that were changed.
        refused: ids that were not, with their state.
        unknown: ids without a record.
        unreadable: ids whose record is damaged, with the remedy.
        find: the command that lists ids.
    """

    done: str
    rule: str
    changed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    find: str = "jobs list"

    def apply(self, task_ids: Sequence[str], change: Callable[[str], str]) -> "BulkChange":
        """Change each in order; an id that is given twice counts once.

        Args:
            task_ids: the ids.
            change: changes one, and returns `done`, its state, or `MISSING_NOTE`.
        """
        for task_id in dict.fromkeys(task_ids):
            try:
                outcome = change(task_id)
            except UnreadableRecordError as error:
                self.unreadable[task_id] = str(error)
                continue
            if outcome == self.done:
                self.changed.append(task_id)
            elif outcome == MISSING_NOTE:
                self.unknown.append(task_id)
            else:
                self.refused[task_id] = outcome
        return self

    def output(self, *, nothing: str = "", **facts: object) -> CommandOutput:
        """Return what the command prints.

        Args:
            nothing: printed if there was nothing to change, which is no failure.
            facts: more fields of the JSON document.
        """
        reasons = {**self.refused, **dict.fromkeys(self.unreadable, UnreadableRecordError.code)}
        refused = [{"task_id": each, "reason": why} for each, why in reasons.items()]
        return CommandOutput(
            {self.done: self.changed, "refused": refused, "unknown": self.unknown, **facts},
            lines=[f"{self.done}  {task_id}" for task_id in self.changed],
            notes=self._notes() or ([] if self.changed else [nothing]),
            failed=bool(reasons or self.unknown),
        )

    def _notes(self) -> list[str]:
        refused = [f"{each}: {reason}. {self.rule}" for each, reason in self.refused.items()]
        unknown = [
            f"{each}: unknown. Find ids with: celery -A tasks.app {self.find}"
            for each in self.unknown
        ]
        return [*refused, *unknown, *self.unreadable.values()]
