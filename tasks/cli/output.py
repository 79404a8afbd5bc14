"""What commands have in common: output as text or JSON, questions, errors, and bulk changes."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click

from tasks.errors import QueueUnavailableError, TaskError, UnreadableRecordError
from tasks.log import log_to_stderr
from tasks.operations import MISSING
from tasks.redis_keys import is_id
from tasks.runtime import runtime_of

#: The option of commands that end jobs, or change many at once.
yes_option: Callable[..., Any] = click.option("--yes", is_flag=True, help="Do not ask.")


#: Without settings, a command asks this machine's Redis at its usual port.
_WHICH_REDIS: Final = (
    "RMBG_REDIS_URL has to be the service's. A service of `rmbg up` writes its settings to "
    "service.env in its data folder: read them with `. data/service.env`."
)


class CommandError(TaskError):
    """A command was refused; `code` says why in one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


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
    """A command whose function takes the `runtime` and returns the `CommandOutput` to print.

    It exits with 1 if that has failed.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - click's signature
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document.")
        )

    def invoke(self, ctx: click.Context) -> None:
        """Run the command, then print its output or its error."""
        log_to_stderr()
        as_json = ctx.params.pop("as_json")
        try:
            ctx.params["runtime"] = runtime_of(ctx.obj.app)
            output = super().invoke(ctx)
        except TaskError as error:
            advice = [_WHICH_REDIS] if isinstance(error, QueueUnavailableError) else []
            output = CommandOutput(
                {"error": {"type": error.code, "message": str(error)}},
                notes=[str(error), *advice],
                failed=True,
            )
        if as_json:
            click.echo(json.dumps(output.document))
        else:
            for line in output.lines:
                click.echo(line)
            for note in output.notes:
                click.echo(note, err=True)
        if output.failed:
            ctx.exit(1)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on standard error, unless `--yes` was given.

    Raises:
        CommandError: the answer is no, or there is no terminal.
    """
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        agreed = False
        click.echo(err=True)
    if not agreed:
        raise CommandError(
            "not_confirmed", "Nothing was changed. Answer y, or give --yes, to go on."
        )


def table_lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Align rows under their headings without frames, which suit `grep` and `awk`."""
    if not rows:
        return []
    cells = [["-" if cell in {None, ""} else str(cell) for cell in row.values()] for row in rows]
    table = [list(rows[0]), *cells]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def fact_lines(facts: Iterable[tuple[str, object]]) -> list[str]:
    """Align names and values, one pair a line."""
    pairs = list(facts)
    width = max(len(name) for name, _ in pairs)
    return [f"{name:{width}}  {value}" for name, value in pairs]


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


def change_each(
    ids: Sequence[str],
    change: Callable[[str], str],
    *,
    done: str,
    rule: str,
    nothing: str = "",
    find: str = "jobs list",
) -> CommandOutput:
    """Change jobs or deliveries in order; an id that is given twice counts once.

    Args:
        ids: of the jobs or deliveries.
        change: changes one, and returns `done`, its state, or `MISSING`.
        done: the outcome of a success, such as `requeued`.
        rule: a sentence that says which ones can be changed.
        nothing: printed if there was nothing to change, which is no failure.
        find: the command that lists ids.
    """
    changed, unknown = list[str](), list[str]()
    refused, unreadable = dict[str, str](), dict[str, str]()
    for each in dict.fromkeys(ids):
        try:
            outcome = change(each) if is_id(each) else MISSING
        except UnreadableRecordError as error:
            unreadable[each] = str(error)
            continue
        if outcome == done:
            changed.append(each)
        elif outcome == MISSING:
            unknown.append(each)
        else:
            refused[each] = outcome
    reasons = {**refused, **dict.fromkeys(unreadable, UnreadableRecordError.code)}
    notes = [
        *(f"{each}: {state}. {rule}" for each, state in refused.items()),
        *(f"{each}: unknown. Find ids with: celery -A tasks.app {find}" for each in unknown),
        *unreadable.values(),
    ]
    return CommandOutput(
        {
            done: changed,
            "refused": [{"task_id": each, "reason": why} for each, why in reasons.items()],
            "unknown": unknown,
        },
        lines=[f"{done}  {each}" for each in changed],
        notes=notes or ([] if changed else [nothing]),
        failed=bool(notes),
    )
