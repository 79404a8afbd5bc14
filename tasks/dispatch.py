"""Sends a job's id onto its queue; the record says everything else."""

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import names
from tasks.errors import QueueUnavailableError
from tasks.jobs import Job


class Dispatcher:
    """The sending side of the queue."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, job: Job) -> None:
        """Send the trigger of a job.

        The first message's id is the task's id, so that Flower and the celery command find it;
        a later one carries the number of the attempt it is for.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        message_id = job.task_id if job.attempts == 0 else f"{job.task_id}.{job.attempts + 1}"
        try:
            self._app.send_task(
                names.REMOVE_TASK,
                args=[job.task_id],
                task_id=message_id,
                queue=job.queue,
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailableError(f"Redis does not answer: {error}") from error
