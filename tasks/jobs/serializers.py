"""Serializers: the JSON of tasks and batches, in answers of the API and in webhooks."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tasks.jobs.batches import Batch, BatchItem
from tasks.jobs.job import Job, JobError, Status
from tasks.object_store import ObjectStore


def task_data(job: Job, object_store: ObjectStore, now: float) -> dict[str, Any]:
    """Return a task's data, with presigned URLs; `now` is a unix time."""
    return {
        "task_id": job.task_id,
        "status": visible_status(job, now),
        "original_url": original_url(job, object_store, now),
        "result_url": result_url(job, object_store, now),
        "urls_expire_at": iso_time(_urls_expire_at(job, object_store, now)),
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
        "created_at": iso_time(job.created_at),
        "started_at": iso_time(job.started_at),
        "finished_at": iso_time(job.finished_at),
        "expires_at": iso_time(job.expires_at),
        "error": error_data(job.error),
    }


def visible_status(job: Job, now: float) -> str:
    """Return a job's status, or `expired` once the pictures of an ended job are gone."""
    return "expired" if job.status.final and job.expires_at <= now else job.status.value


def result_url(
    job: Job, object_store: ObjectStore, now: float, *, download: bool = False
) -> str | None:
    """Return the presigned URL of the result; None without one, or once it has expired."""
    if job.result_key is None or job.status is not Status.SUCCEEDED:
        return None
    name = f"{job.file_stem}.{job.format}" if download else None
    return _presigned_url(job, object_store, job.result_key, now, name)


def original_url(job: Job, object_store: ObjectStore, now: float) -> str | None:
    """Return the presigned URL of the original; None once it has expired."""
    return _presigned_url(job, object_store, job.original_key, now, None)


def _presigned_url(
    job: Job, object_store: ObjectStore, key: str, now: float, file_name: str | None
) -> str | None:
    if job.expires_at <= now:
        return None
    return object_store.url(key, seconds=int(job.expires_at - now), file_name=file_name)


def _urls_expire_at(job: Job, object_store: ObjectStore, now: float) -> float | None:
    """Return until when the presigned URLs work that are signed now; None once there are none."""
    return min(job.expires_at, now + object_store.url_lifetime()) if job.expires_at > now else None


def iso_time(seconds: float | None) -> datetime | None:
    """Return a unix time as a datetime in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def error_data(error: JobError | None) -> dict[str, Any] | None:
    """Return an error's data."""
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "retryable": error.retryable}


def batch_data(batch: Batch, jobs: Mapping[str, Job], now: float) -> dict[str, Any]:
    """Return a batch's data.

    Args:
        batch: the record.
        jobs: by id, those of its items whose record exists.
        now: unix time.
    """
    completed = "processing" if batch.completed_at is None else "completed"
    items = [_item_data(number, each, jobs, now) for number, each in enumerate(batch.items)]
    counts = Counter(item["status"] for item in items)
    unfinished = counts[Status.QUEUED.value] + counts[Status.PROCESSING.value]
    total = len(items)
    return {
        "batch_id": batch.batch_id,
        "status": "expired" if batch.expires_at <= now else completed,
        "total": total,
        "counts": {status.value: counts[status.value] for status in Status},
        "progress": round((total - unfinished) / total, 4) if total else 1.0,
        "metadata": batch.metadata,
        "created_at": iso_time(batch.created_at),
        "completed_at": iso_time(batch.completed_at),
        "expires_at": iso_time(batch.expires_at),
        "items": items,
    }


def _item_data(number: int, item: BatchItem, jobs: Mapping[str, Job], now: float) -> dict[str, Any]:
    job = jobs.get(item.task_id or "")
    unknown = Status.FAILED.value if item.error else "erased"
    return {
        "index": number,
        "name": item.name,
        "task_id": item.task_id,
        "status": visible_status(job, now) if job else unknown,
        "error": error_data(item.error or (job.error if job else None)),
    }
