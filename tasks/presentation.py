"""How a job looks from outside, in the API's answers and in webhooks alike."""

from datetime import UTC, datetime
from typing import Any

from tasks.jobs import Job, JobError, Status
from tasks.storage import ObjectStore


def task_data(job: Job, objects: ObjectStore, now: float) -> dict[str, Any]:
    """A task's data; its addresses are signed now.

    Args:
        job: the record.
        objects: signs.
        now: unix time.
    """
    return {
        "task_id": job.task_id,
        "status": visible_status(job, now),
        "original_url": original_url(job, objects, now),
        "result_url": result_url(job, objects, now),
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
        "created_at": instant(job.created_at),
        "started_at": instant(job.started_at),
        "finished_at": instant(job.finished_at),
        "expires_at": instant(job.expires_at),
        "error": error_data(job.error),
    }


def visible_status(job: Job, now: float) -> str:
    """`expired` once the pictures of a finished job are gone."""
    return "expired" if job.status.final and job.expires_at <= now else job.status.value


def result_url(job: Job, objects: ObjectStore, now: float, *, download: bool = False) -> str | None:
    """The signed address of the result, if there is one and it has not expired."""
    if job.result_key is None or job.status is not Status.SUCCEEDED:
        return None
    name = f"{job.file_stem}.{job.format}" if download else None
    return _url(job, objects, job.result_key, now, name)


def original_url(job: Job, objects: ObjectStore, now: float) -> str | None:
    """The signed address of the upload, until it expires."""
    return _url(job, objects, job.original_key, now, None)


def _url(job: Job, objects: ObjectStore, key: str, now: float, file_name: str | None) -> str | None:
    left = int(job.expires_at - now)
    return objects.url(key, seconds=left, file_name=file_name) if left > 0 else None


def instant(seconds: float | None) -> datetime | None:
    """A unix time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def error_data(error: JobError | None) -> dict[str, Any] | None:
    """Why something failed."""
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "retryable": error.retryable}
