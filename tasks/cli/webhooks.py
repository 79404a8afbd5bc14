"""`celery webhooks`: list, show, replay and drop deliveries."""

import time
from typing import Any

import click

from tasks.cli.output import (
    MISSING_NOTE,
    BulkChange,
    CommandOutput,
    OutputCommand,
    Table,
    UnknownDeliveryError,
    confirm,
    local_time,
    yes_option,
)
from tasks.runtime import Runtime, runtime_of
from tasks.webhooks.deliveries import Delivery, DeliveryState


@click.group("webhooks")
def webhooks() -> None:
    """Look after webhooks: pending ones, and those that were given up."""


@webhooks.command("list", cls=OutputCommand)
@click.option("--dead", is_flag=True, help="List those that were given up, the newest first.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.pass_context
def list_deliveries(ctx: click.Context, dead: bool, limit: int) -> CommandOutput:  # noqa: FBT001 - click passes by name
    """List pending webhooks, the next one first."""
    deliveries = runtime_of(ctx.obj.app).deliveries
    rows = deliveries.dead(limit) if dead else deliveries.waiting(limit)
    table = Table(("WEBHOOK", "EVENT", "HOST", "ATTEMPTS", "DUE", "REASON"))
    for row in rows:
        due = local_time(deliveries.next_due(row.id)) or "-"
        table.rows.append((row.id, row.event, row.host, str(row.attempts), due, row.reason or "-"))
    nothing = "No webhook was given up." if dead else "No webhook waits."
    return CommandOutput(
        {"webhooks": [_delivery_document(row) for row in rows]}, lines=table.lines() or [nothing]
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
@click.pass_context
def show(ctx: click.Context, webhook_id: str) -> CommandOutput:
    """Show one webhook with all its attempts."""
    deliveries = runtime_of(ctx.obj.app).deliveries
    row = deliveries.get(webhook_id)
    if row is None:
        raise UnknownDeliveryError(
            f"There is no webhook {webhook_id!r}, or its task has expired. "
            "Find ids with: celery -A tasks.app webhooks list"
        )
    attempts = [
        {"at": local_time(each.at), "outcome": each.outcome, "status": each.status, "ms": each.ms}
        for each in deliveries.attempts(webhook_id)
    ]
    facts = {
        **_delivery_document(row),
        "next_attempt_at": local_time(deliveries.next_due(webhook_id)),
    }
    width = max(map(len, facts))
    lines = [f"{name:{width}}  {value}" for name, value in facts.items()]
    lines += [
        f"{'attempt':{width}}  " + " ".join(f"{value}" for value in each.values())
        for each in attempts
    ]
    return CommandOutput({**facts, "attempts": attempts}, lines=lines)


@webhooks.command("replay", cls=OutputCommand)
@click.argument("webhook_ids", metavar="[ID]...", nargs=-1)
@click.option("--dead", is_flag=True, help="Replay all that were given up; asks first.")
@yes_option
@click.pass_context
def replay(
    ctx: click.Context,
    webhook_ids: tuple[str, ...],
    dead: bool,  # noqa: FBT001 - click passes by name
    yes: bool,  # noqa: FBT001 - click passes by name
) -> CommandOutput:
    """Send webhooks again, under the same ids."""
    runtime = runtime_of(ctx.obj.app)
    chosen = _chosen_deliveries(runtime, webhook_ids, dead=dead)
    if dead and chosen:
        confirm(f"Send {len(chosen)} webhooks again?", yes=yes)
    now = time.time()
    changes = BulkChange("replayed", "It cannot be sent.", find="webhooks list").apply(
        chosen, lambda each: "replayed" if runtime.deliveries.replay(each, now) else MISSING_NOTE
    )
    return changes.output(nothing="No webhook was given up: nothing to do.")


@webhooks.command("drop", cls=OutputCommand)
@click.argument("webhook_ids", metavar="[ID]...", nargs=-1)
@click.option("--dead", is_flag=True, help="Drop all that were given up.")
@yes_option
@click.pass_context
def drop(ctx: click.Context, webhook_ids: tuple[str, ...], dead: bool, yes: bool) -> CommandOutput:  # noqa: FBT001 - click passes by name
    """Give webhooks up; their tasks still list them, and they can be replayed."""
    runtime = runtime_of(ctx.obj.app)
    chosen = _chosen_deliveries(runtime, webhook_ids, dead=dead)
    if chosen:
        confirm(f"Drop {len(chosen)} webhooks?", yes=yes)
    changes = BulkChange(
        "dropped", "Only pending and dead webhooks can be dropped.", find="webhooks list"
    ).apply(chosen, lambda each: _drop_one(runtime, each))
    return changes.output(nothing="No webhook was given up: nothing to do.")


def _drop_one(runtime: Runtime, webhook_id: str) -> str:
    row = runtime.deliveries.get(webhook_id)
    if row is None:
        return MISSING_NOTE
    return DeliveryState.DROPPED if runtime.deliveries.drop(webhook_id) else row.state


def _chosen_deliveries(runtime: Runtime, ids: tuple[str, ...], *, dead: bool) -> tuple[str, ...]:
    if bool(ids) == dead:
        raise click.UsageError("Give ids, or --dead.")
    return tuple(row.id for row in runtime.deliveries.dead(10_000)) if dead else ids
