"""`jobs stuck`: what should have gone on by itself, and has not."""

from dataclasses import asdict

import click

from tasks.commands.answer import Answer, AnsweringCommand, Table, span
from tasks.commands.stuck_search import find_stuck
from tasks.runtime import runtime_of


@click.command("stuck", cls=AnsweringCommand)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that something may take before it counts.",
)
@click.pass_context
def stuck(ctx: click.Context, older_than: float) -> Answer:
    """Show jobs and workers that the service should have seen to, each with what to do."""
    found = find_stuck(runtime_of(ctx.obj.app), older_than)
    table = Table(("WHAT", "PROBLEM", "SINCE", "WHAT TO DO"))
    for each in found:
        table.rows.append((each.name, each.problem, span(each.seconds), each.advice))
    return Answer(
        {"stuck": [asdict(each) for each in found]}, lines=table.lines() or ["Nothing is stuck."]
    )
