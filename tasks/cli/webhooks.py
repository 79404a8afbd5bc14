"""`celery webhooks`: list, show, replay and drop deliveries."""

import time
from typing import Any, Final

import click

from tasks.cli.output import (
    CommandError,
    CommandOutput,
    OutputCommand,
    change_each,
    confirm,
    fact_lines,
    local_time,
    table_lines,
    yes_option,
)
from tasks.operations import drop_delivery, replay_delivery
from tasks.runtime import Runtime
from tasks.webhooks.deliveries import Delivery

_NOTHING: Final = "No webhook was given up: nothing to do."


@click.group("webhooks")
def webhooks() -> None:
    """Look after webhooks: pending ones, and those that were given up."""


@webhooks.command("list", cls=OutputCommand)
@click.option("--dead", is_flag=True, help="List those that were given up, the newest first.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
def list_deliveries(runtime: Runtime, dead: bool, limit: int) -> CommandOutput:
    """List pending webhooks, the next one first."""
    deliveries = runtime.deliveries
    rows = deliveries.dead(limit) if dead else deliveries.waiting(limit)
    lines = table_lines(
        [
            {
                "WEBHOOK": row.id,
                "EVENT": row.event,
                "HOST": row.host,
                "ATTEMPTS": row.attempts,
                "DUE": local_time(deliveries.next_due(row.id)),
                "REASON": row.reason,
            }
            for row in rows
        ]
    )
    nothing = "No webhook was given up." if dead else "No webhook waits."
    return CommandOutput(
        {"webhooks": [_delivery_document(row) for row in rows]}, lines=lines or [nothing]
    )


def _delivery_document(row: Delivery) -> dict[str, Any]:
    return {
        "webhook_id": row.id,
        "event": row.event,
        "subject": row.subject,
        "host": row.host,
        "state": row.state.value,
        "attempts": row.attempts,
        "reason": row.reason,
        "created_at": local_time(row.created_at),
    }


@webhooks.command("show", cls=OutputCommand)
@click.argument("webhook_id", metavar="ID")
def show(runtime: Runtime, webhook_id: str) -> CommandOutput:
    """Show one webhook with all its attempts."""
    deliveries = runtime.deliveries
    row = deliveries.get(webhook_id)
    if row is None:
        raise CommandError(
            "unknown_webhook",
            f"There is no webhook {webhook_id!r}, or its task has expired. "
            "Find ids with: celery -A tasks.app webhooks list",
        )
    attempts = [
        {"at": local_time(each.at), "outcome": each.outcome, "status": each.status, "ms": each.ms}
        for each in deliveries.attempts(webhook_id)
    ]
    facts = {
        **_delivery_document(row),
        "next_attempt_at": local_time(deliveries.next_due(webhook_id)),
    }
    shown = [("attempt", " ".join(map(str, each.values()))) for each in attempts]
    return CommandOutput(
        {**facts, "attempts": attempts}, lines=fact_lines([*facts.items(), *shown])
    )


@webhooks.command("replay", cls=OutputCommand)
@click.argument("webhook_ids", metavar="[ID]...", nargs=-1)
@click.option("--dead", is_flag=True, help="Replay all that were given up; asks first.")
@yes_option
def replay(runtime: Runtime, webhook_ids: tuple[str, ...], dead: bool, yes: bool) -> CommandOutput:
    """Send webhooks again, under the same ids."""
    chosen = _chosen_deliveries(runtime, webhook_ids, dead=dead)
    if dead and chosen:
        confirm(f"Send {len(chosen)} webhooks again?", yes=yes)
    now = time.time()
    return change_each(
        chosen,
        lambda each: replay_delivery(runtime, each, now),
        done="replayed",
        rule="It cannot be sent.",
        nothing=_NOTHING,
        find="webhooks list",
    )


@webhooks.command("drop", cls=OutputCommand)
@click.argument("webhook_ids", metavar="[ID]...", nargs=-1)
@click.option("--dead", is_flag=True, help="Drop all that were given up.")
@yes_option
def drop(runtime: Runtime, webhook_ids: tuple[str, ...], dead: bool, yes: bool) -> CommandOutput:
    """Give webhooks up; their tasks still list them, and they can be replayed."""
    chosen = _chosen_deliveries(runtime, webhook_ids, dead=dead)
    if chosen:
        confirm(f"Drop {len(chosen)} webhooks?", yes=yes)
    return change_each(
        chosen,
        lambda each: drop_delivery(runtime, each),
        done="dropped",
        rule="Only pending and dead webhooks can be dropped.",
        nothing=_NOTHING,
        find="webhooks list",
    )


def _chosen_deliveries(runtime: Runtime, ids: tuple[str, ...], *, dead: bool) -> tuple[str, ...]:
    if bool(ids) == dead:
        raise click.UsageError("Give ids, or --dead.")
    return tuple(row.id for row in runtime.deliveries.dead(10_000)) if dead else ids
