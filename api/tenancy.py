"""Tasks as their owner may reach them; everybody else's are not there."""

from api.auth import current_owner
from api.context import services
from api.errors import ApiError
from tasks.jobs import Job


def own(job: Job | None) -> Job:
    """The job, if there is one and it is the caller's.

    Raises:
        ApiError: `task_not_found`, the same for what is another's and for what never was.
    """
    if job is None or job.owner != current_owner().id:
        raise ApiError("task_not_found")
    return job


def own_job(task_id: str) -> Job:
    """The caller's job of that id; raises as `own` does."""
    return own(services().runtime.job_store.get(task_id))
