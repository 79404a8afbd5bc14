"""A submission, and a look at a job: for equal jobs."""

from collections.abc import Callable

from api.services import Services
from tasks.jobs.job import Job
from tests.support.jobs import recorded

#: Submits the picture of these tests, with other parts if asked.
Submit = Callable[..., Job]


def job_of(services: Services, job: Job | str) -> Job:
    """Return the job's record as it is now."""
    return recorded(services.runtime.job_store, job)
