"""`celery jobs workers|drain|undrain`: list model workers, drain one, and end a drain."""

from dataclasses import asdict

import click

from tasks.cli.output import CommandOutput, OutputCommand, duration, table_lines
from tasks.operations import DEFAULT_REASON, drain_worker, undrain_worker, worker_state
from tasks.runtime import Runtime


@click.command("workers", cls=OutputCommand)
def workers(runtime: Runtime) -> CommandOutput:
    """List the model workers, each with its state: ready, busy, not-ready, drained or silent."""
    found, silent = runtime.registry.workers(), runtime.registry.silent()
    rows: list[dict[str, object]] = [
        {
            "WORKER": worker.name,
            "STATE": worker_state(worker, silent),
            "MODEL": worker.model,
            "QUEUE": worker.queue,
            "RUNNING": worker.running,
            "SECONDS/JOB": f"{worker.seconds:.2f}",
            "WHY": worker.drained,
        }
        for worker in found
    ]
    listed = {worker.name for worker in found}
    rows += [
        {
            "WORKER": name,
            "STATE": "silent",
            "MODEL": "",
            "QUEUE": "",
            "RUNNING": "",
            "SECONDS/JOB": "",
            "WHY": f"for {duration(seconds)}",
        }
        for name, seconds in silent.items()
        if name not in listed
    ]
    return CommandOutput(
        {
            "workers": [
                {**asdict(worker), "state": worker_state(worker, silent)} for worker in found
            ],
            "silent": [
                {"name": name, "seconds": round(seconds)} for name, seconds in silent.items()
            ],
        },
        lines=table_lines(rows) or ["No model worker is registered: start one."],
    )


@click.command("drain", cls=OutputCommand)
@click.argument("worker")
@click.option("--reason", default=DEFAULT_REASON, show_default=True, help="Shown by `workers`.")
def drain(runtime: Runtime, worker: str, reason: str) -> CommandOutput:
    """Let WORKER finish its job and take no other; its waiting jobs go to other workers."""
    drain_worker(runtime.registry, worker, reason)
    return CommandOutput(
        {"drained": worker, "reason": reason},
        lines=[f"drained  {worker}"],
        notes=[f"It takes no more jobs until: celery -A tasks.app jobs undrain {worker}"],
    )


@click.command("undrain", cls=OutputCommand)
@click.argument("worker")
def undrain(runtime: Runtime, worker: str) -> CommandOutput:
    """Let WORKER take jobs again."""
    undrain_worker(runtime.registry, worker)
    return CommandOutput({"undrained": worker}, lines=[f"undrained  {worker}"])
