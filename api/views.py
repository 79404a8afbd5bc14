"""How a job looks from outside."""

from datetime import UTC, datetime
from typing import Any

from flask import url_for

from api.envelope import request_id
from api.services import Services
from tasks.audit import Access
from tasks.audit import record as audit
from tasks.jobs import Job, JobError


def submitted(job: Job, services: Services) -> dict[str, Any]:
    """The answer to a submission; see `SubmittedSchema`."""
    return {
        "task_id": job.task_id,
        "status": job.status.value,
        "status_url": status_url(job),
        "result_url": None,
        "queue": job.queue,
        "position": services.position(job),
        "created_at": _instant(job.created_at),
    }


def task(job: Job, services: Services) -> dict[str, Any]:
    """A task's present state; see `TaskSchema`. That its addresses were given out is recorded."""
    original_url, result_url = services.original_url(job), services.result_url(job)
    issued = [name for name, url in (("original", original_url), ("result", result_url)) if url]
    if issued:
        audit(Access.ADDRESSES, job, request_id=request_id(), pictures=" ".join(issued))
    return {
        "task_id": job.task_id,
        "status": visible_status(job, services),
        "original_url": original_url,
        "result_url": result_url,
        "format": job.format,
        "width": job.width,
        "height": job.height,
        "size": job.size,
        "elapsed_ms": job.elapsed_ms,
        "cached": job.cached,
        "model": job.model,
        "attempts": job.attempts,
        "worker": job.worker,
        "metadata": job.metadata,
        "timings": job.timings,
        "created_at": _instant(job.created_at),
        "started_at": _instant(job.started_at),
        "finished_at": _instant(job.finished_at),
        "expires_at": _instant(job.expires_at),
        "error": _error(job.error),
    }


def visible_status(job: Job, services: Services) -> str:
    """`expired` once the pictures of a finished job are gone."""
    expired = job.status.final and job.expires_at <= services.clock()
    return "expired" if expired else job.status.value


def status_url(job: Job) -> str:
    """The task's own address, as this caller reaches the service."""
    return url_for("tasks.Task", task_id=job.task_id, _external=True)


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _error(error: JobError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "retryable": error.retryable}
