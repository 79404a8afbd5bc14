"""How a job looks from outside."""

from typing import Any

from flask import url_for

from api.envelope import request_id
from api.services import Services
from tasks import presentation
from tasks.audit import Access
from tasks.audit import record as audit
from tasks.jobs import Job
from tasks.presentation import instant, task_data


def submitted(job: Job, services: Services) -> dict[str, Any]:
    """The answer to a submission; see `SubmittedSchema`."""
    return {
        "task_id": job.task_id,
        "status": job.status.value,
        "status_url": status_url(job),
        "result_url": None,
        "queue": job.queue,
        "position": services.position(job),
        "created_at": instant(job.created_at),
    }


def task(job: Job, services: Services) -> dict[str, Any]:
    """A task's present state; see `TaskSchema`. That its addresses were given out is recorded."""
    data = task_data(job, services.runtime.object_store, services.clock())
    issued = [name for name in ("original", "result") if data[f"{name}_url"]]
    if issued:
        audit(Access.ADDRESSES, job, request_id=request_id(), pictures=" ".join(issued))
    return data


def visible_status(job: Job, services: Services) -> str:
    """`expired` once the pictures of a finished job are gone."""
    return presentation.visible_status(job, services.clock())


def status_url(job: Job) -> str:
    """The task's own address, as this caller reaches the service."""
    return url_for("tasks.Task", task_id=job.task_id, _external=True)
