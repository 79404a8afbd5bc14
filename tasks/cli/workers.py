"""`celery jobs workers|drain|undrain`: list model workers, drain one, and end a drain."""

from dataclasses import asdict

import click

from tasks.cli.output import CommandError, CommandOutput, OutputCommand, duration, table_lines
from tasks.runtime import Runtime
from tasks.worker_registry import Worker, WorkerRegistry


@click.command("workers", cls=OutputCommand)
def workers(runtime: Runtime) -> CommandOutput:
    """List the model workers, each with its state: ready, busy, not-ready, drained or silent."""
    found, silent = runtime.registry.workers(), runtime.registry.silent()
    rows: list[dict[str, object]] = [
        {
            "WORKER": worker.name,
            "STATE": _state(worker, silent),
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
            "workers": [{**asdict(worker), "state": _state(worker, silent)} for worker in found],
            "silent": [
                {"name": name, "seconds": round(seconds)} for name, seconds in silent.items()
            ],
        },
        lines=table_lines(rows) or ["No model worker is registered: start one."],
    )


def _state(worker: Worker, silent: dict[str, float]) -> str:
    if worker.drained:
        return "drained"
    if worker.name in silent or not worker.alive:
        return "silent"
    if not worker.ready:
        return "not-ready"
    return "busy" if worker.running else "ready"


@click.command("drain", cls=OutputCommand)
@click.argument("worker")
@click.option("--reason", default="by an operator", show_default=True, help="Shown by `workers`.")
def drain(runtime: Runtime, worker: str, reason: str) -> CommandOutput:
    """Let WORKER finish its job and take no other; its waiting jobs go to other workers."""
    _require_worker(runtime.registry, worker)
    runtime.registry.drain(worker, reason or "by an operator")
    return CommandOutput(
        {"drained": worker, "reason": reason},
        lines=[f"drained  {worker}"],
        notes=[f"It takes no more jobs until: celery -A tasks.app jobs undrain {worker}"],
    )


@click.command("undrain", cls=OutputCommand)
@click.argument("worker")
def undrain(runtime: Runtime, worker: str) -> CommandOutput:
    """Let WORKER take jobs again."""
    if runtime.registry.drained(worker):
        runtime.registry.undrain(worker)
        return CommandOutput({"undrained": worker}, lines=[f"undrained  {worker}"])
    _require_worker(runtime.registry, worker)
    raise CommandError("command_refused", f"The worker {worker} is not drained: nothing to do.")


def _require_worker(registry: WorkerRegistry, name: str) -> None:
    known = {worker.name for worker in registry.workers()} | set(registry.silent())
    if name not in known:
        choice = ", ".join(sorted(known)) or "none is running"
        raise CommandError(
            "unknown_worker", f"There is no worker {name!r}. Model workers: {choice}."
        )
