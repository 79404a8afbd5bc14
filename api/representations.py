"""Tasks and batches as the API's answers represent them, with the addresses a caller needs."""

from typing import Any

from flask import url_for

from api.envelope import request_id
from api.services import Services
from tasks.jobs import serializers
from tasks.jobs.artifacts import Access
from tasks.jobs.artifacts import audit_access as audit
from tasks.jobs.batches import Batch
from tasks.jobs.model import Job
from tasks.jobs.serializers import batch_data, iso_time, task_data


def batch_view(batch: Batch, services: Services) -> dict[str, Any]:
    """Return a batch's state; see `BatchSchema`."""
    jobs = batch_jobs(batch, services)
    data = batch_data(batch, jobs, services.clock())
    for item in data["items"]:
        job = jobs.get(item["task_id"] or "")
        item["status_url"] = status_url(job) if job else None
    return {
        **data,
        "status_url": url_for("batches.BatchResource", batch_id=batch.batch_id, _external=True),
        "archive_url": url_for("batches.BatchArchive", batch_id=batch.batch_id, _external=True),
    }


def batch_jobs(batch: Batch, services: Services) -> dict[str, Job]:
    """Return the records of a batch's jobs by task id."""
    return {job.task_id: job for job in services.runtime.job_store.get_many(batch.task_ids)}


def submitted_view(job: Job, position: int) -> dict[str, Any]:
    """Return the answer to a submission; see `SubmittedSchema`."""
    return {
        "task_id": job.task_id,
        "status": job.status.value,
        "status_url": status_url(job),
        "result_url": None,
        "queue": job.queue,
        "position": position,
        "created_at": iso_time(job.created_at),
    }


def task_view(job: Job, services: Services) -> dict[str, Any]:
    """Return a task's state, see `TaskSchema`, and audit that its signed URLs were issued."""
    data = task_data(job, services.runtime.object_store, services.clock())
    issued = [name for name in ("original", "result") if data[f"{name}_url"]]
    if issued:
        audit(Access.ADDRESSES, job, request_id=request_id(), pictures=" ".join(issued))
    return data


def visible_status(job: Job, services: Services) -> str:
    """Return the status that callers see: `expired` once a finished job's pictures are gone."""
    return serializers.visible_status(job, services.clock())


def status_url(job: Job) -> str:
    """Return the task's URL, as this caller reaches the service."""
    return url_for("tasks.Task", task_id=job.task_id, _external=True)
