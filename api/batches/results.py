"""How a batch looks from outside, and its archive."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from flask import url_for

from api.auth import current_owner
from api.batches.archive import stream_zip
from api.batches.names import archive_names
from api.context import services as current_services
from api.errors import ApiError
from api.services import Services
from api.views import status_url, visible_status
from tasks.audit import Access
from tasks.audit import record as audit
from tasks.batches.record import Batch, Item
from tasks.jobs import Job, JobError, Status

_FAILED = Status.FAILED.value
_UNDONE = frozenset({Status.QUEUED.value, Status.PROCESSING.value})


def own_batch(batch_id: str) -> Batch:
    """The caller's batch.

    Raises:
        ApiError: `batch_not_found`: there is none, or it is somebody else's.
    """
    batch = current_services().batches.get(batch_id)
    if batch is None or batch.owner != current_owner().id:
        raise ApiError("batch_not_found")
    return batch


def completed(batch: Batch, services: Services) -> Batch:
    """A batch whose results can be had.

    Raises:
        ApiError: it is not done yet, or has expired.
    """
    if batch.expires_at <= services.clock():
        raise ApiError("batch_expired")
    if batch.completed_at is None:
        raise ApiError("batch_not_finished", retry_after=1)
    return batch


def batch_view(batch: Batch, services: Services) -> dict[str, Any]:
    """A batch's present state; see `BatchSchema`."""
    jobs = _jobs(batch, services)
    items = [_item(number, each, jobs, services) for number, each in enumerate(batch.items)]
    counts = Counter(item["status"] for item in items)
    undone = sum(counts[status] for status in _UNDONE)
    total = len(items)
    return {
        "batch_id": batch.batch_id,
        "status": _status(batch, services),
        "status_url": url_for("batches.BatchResource", batch_id=batch.batch_id, _external=True),
        "archive_url": url_for("batches.BatchArchive", batch_id=batch.batch_id, _external=True),
        "total": total,
        "counts": {status.value: counts[status.value] for status in Status},
        "progress": round((total - undone) / total, 4) if total else 1.0,
        "metadata": batch.metadata,
        "created_at": _instant(batch.created_at),
        "completed_at": _instant(batch.completed_at),
        "expires_at": _instant(batch.expires_at),
        "items": items,
    }


def _status(batch: Batch, services: Services) -> str:
    if batch.expires_at <= services.clock():
        return "expired"
    return "processing" if batch.completed_at is None else "completed"


def _jobs(batch: Batch, services: Services) -> dict[str, Job]:
    return {job.task_id: job for job in services.store.get_many(batch.task_ids)}


def _item(number: int, item: Item, jobs: Mapping[str, Job], services: Services) -> dict[str, Any]:
    job = jobs.get(item.task_id or "")
    error = item.error or (job.error if job else None)
    status = _FAILED if item.error else "erased"
    return {
        "index": number,
        "name": item.name,
        "task_id": item.task_id,
        "status": visible_status(job, services) if job else status,
        "status_url": status_url(job) if job else None,
        "error": _error(error),
    }


def _error(error: JobError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "retryable": error.retryable}


def archive(batch: Batch, services: Services, request_id: str) -> Iterator[bytes]:
    """The cutouts of a batch as a ZIP, written as it is read.

    Raises:
        ApiError: `batch_empty`: none of its items succeeded.
    """
    jobs = _jobs(batch, services)
    done = [
        (item, jobs[item.task_id])
        for item in batch.items
        if item.task_id in jobs and jobs[item.task_id].result_key
    ]
    if not done:
        raise ApiError("batch_empty")
    for _, job in done:
        audit(Access.RESULT, job, request_id=request_id)
    names = archive_names((item.name or job.file_stem, job.format or "") for item, job in done)
    return stream_zip(
        (name, _when(job), services.uploads.large.chunks(str(job.result_key)))
        for name, (_, job) in zip(names, done, strict=True)
    )


def _when(job: Job) -> datetime:
    return datetime.fromtimestamp(job.finished_at or job.created_at, UTC)


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
