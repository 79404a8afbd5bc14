"""How a batch looks from outside, and its archive."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from flask import url_for

from api.auth import current_owner
from api.batches.archive import stream_zip
from api.batches.names import archive_names
from api.context import services as current_services
from api.errors import ApiError
from api.services import Services
from api.views import status_url
from tasks.audit import Access
from tasks.audit import record as audit
from tasks.batches.presentation import batch_data
from tasks.batches.record import Batch
from tasks.jobs import Job, Status

_FAILED = Status.FAILED.value
_UNDONE = frozenset({Status.QUEUED.value, Status.PROCESSING.value})


def own_batch(batch_id: str) -> Batch:
    """The caller's batch.

    Raises:
        ApiError: `batch_not_found`: there is none, or it is somebody else's.
    """
    batch = current_services().runtime.batches.get(batch_id)
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
    data = batch_data(batch, jobs, services.clock())
    for item in data["items"]:
        job = jobs.get(item["task_id"] or "")
        item["status_url"] = status_url(job) if job else None
    return {
        **data,
        "status_url": url_for("batches.BatchResource", batch_id=batch.batch_id, _external=True),
        "archive_url": url_for("batches.BatchArchive", batch_id=batch.batch_id, _external=True),
    }


def _jobs(batch: Batch, services: Services) -> dict[str, Job]:
    return {job.task_id: job for job in services.runtime.job_store.get_many(batch.task_ids)}


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
        (name, _when(job), services.runtime.uploads.large.chunks(str(job.result_key)))
        for name, (_, job) in zip(names, done, strict=True)
    )


def _when(job: Job) -> datetime:
    return datetime.fromtimestamp(job.finished_at or job.created_at, UTC)


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
