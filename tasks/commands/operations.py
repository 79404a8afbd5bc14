"""What more than one command does with the service's parts."""

from tasks.errors import QueueUnavailableError
from tasks.jobs import Job
from tasks.runtime import Runtime


def send_requeued(runtime: Runtime, job: Job) -> None:
    """Send a job that was requeued at once; failing that, the reconciler does."""
    try:
        queue = runtime.router.choose(job.model, job.priority, excluded_worker=job.excluded_worker)
        runtime.dispatcher.send_again(job.task_id, queue=queue)
    except QueueUnavailableError:
        # The record says that it is due: nothing is lost.
        return
