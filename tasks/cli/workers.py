"""`celery jobs workers|drain|undrain`: list model workers, drain one, and end a drain."""

from dataclasses import asdict

import click

from tasks.cli.output import (
    CommandError,
    CommandOutput,
    OutputCommand,
    Table,
    UnknownWorkerError,
    duration,
)
from tasks.runtime import runtime_of
from tasks.worker_registry import Worker, WorkerRegistry


@click.command("workers", cls=OutputCommand)
@click.pass_context
def workers(ctx: click.Context) -> CommandOutput:
    """List the model workers, each with its state: ready, busy, not-ready, drained or silent."""
    registry = runtime_of(ctx.obj.app).registry
    found, silent = registry.workers(), registry.silent()
    table = Table(("WORKER", "STATE", "MODEL", "QUEUE", "RUNNING", "SECONDS/JOB", "WHY"))
    for worker in found:
        table.rows.append(_worker_row(worker, worker_state(worker, silent)))
    listed = {worker.name for worker in found}
    gone = {name: seconds for name, seconds in silent.items() if name not in listed}
    for name, seconds in gone.items():
        table.rows.append((name, "silent", "-", "-", "-", "-", f"for {duration(seconds)}"))
    documents = [{**asdict(worker), "state": worker_state(worker, silent)} for worker in found]
    return CommandOutput(
        {
            "workers": documents,
            "silent": [
                {"name": name, "seconds": round(seconds)} for name, seconds in silent.items()
            ],
        },
        lines=table.lines() or ["No model worker is registered: start one."],
    )


def worker_state(worker: Worker, silent: dict[str, float]) -> str:
    """Return a worker's state in one word."""
    if worker.drained:
        return "drained"
    if worker.name in silent or not worker.alive:
        return "silent"
    if not worker.ready:
        return "not-ready"
    return "busy" if worker.running else "ready"


def _worker_row(worker: Worker, word: str) -> tuple[str, ...]:
    return (
        worker.name,
        word,
        worker.model or "-",
        worker.queue or "-",
        str(worker.running),
        f"{worker.seconds:.2f}",
        worker.drained or "-",
    )


@click.command("drain", cls=OutputCommand)
@click.argument("worker")
@click.option("--reason", default="by an operator", show_default=True, help="Shown by `workers`.")
@click.pass_context
def drain(ctx: click.Context, worker: str, reason: str) -> CommandOutput:
    """Let WORKER finish its job and take no other; its waiting jobs go to other workers."""
    registry = runtime_of(ctx.obj.app).registry
    _require_worker(registry, worker)
    registry.drain(worker, reason or "by an operator")
    return CommandOutput(
        {"drained": worker, "reason": reason},
        lines=[f"drained  {worker}"],
        notes=[f"It takes no more jobs until: celery -A tasks.app jobs undrain {worker}"],
    )


@click.command("undrain", cls=OutputCommand)
@click.argument("worker")
@click.pass_context
def undrain(ctx: click.Context, worker: str) -> CommandOutput:
    """Let WORKER take jobs again."""
    registry = runtime_of(ctx.obj.app).registry
    if registry.drained(worker):
        registry.undrain(worker)
        return CommandOutput({"undrained": worker}, lines=[f"undrained  {worker}"])
    _require_worker(registry, worker)
    raise CommandError(f"The worker {worker} is not drained: nothing to do.")


def _require_worker(registry: WorkerRegistry, name: str) -> None:
    known = {worker.name for worker in registry.workers()} | set(registry.silent())
    if name not in known:
        choice = ", ".join(sorted(known)) or "none is running"
        raise UnknownWorkerError(f"There is no worker {name!r}. Model workers: {choice}.")
