"""Sends a job's id onto its queue; the record says everything else."""

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import names
from tasks.errors import QueueUnavailableError
from tasks.jobs import Job, Priority
from tasks.store import JobStore


class Dispatcher:
    """The sending side of the queue."""

    def __init__(self, app: Celery, store: JobStore) -> None:
        self._app = app
        self._store = store

    def send(self, job: Job) -> None:
        """Send the message that the record has numbered already.

        The first message's id is the task's id, so that Flower and the celery command find it;
        a later one carries a number of its own, since a revoked id is never run again.

        Raises:
            QueueUnavailableError: Redis does not answer; the reconciler will send it again.
        """
        message_id = job.task_id if job.sends == 0 else f"{job.task_id}.{job.sends + 1}"
        try:
            self._app.send_task(
                names.REMOVE_TASK,
                args=[job.task_id],
                task_id=message_id,
                queue=job.queue,
                priority=int(job.priority),
                headers={names.SENDING_HEADER: job.sending},
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailableError(f"Redis does not answer: {error}") from error

    def send_again(self, task_id: str, *, queue: str, priority: Priority | None = None) -> bool:
        """Number and send another message for a queued job; False if it is not queued."""
        job = self._store.get(task_id)
        if job is None:
            return False
        chosen = self._store.note_sending(
            task_id, queue=queue, priority=job.priority if priority is None else priority
        )
        if chosen is None:
            return False
        self.send(chosen)
        return True


def job_id_of(message_id: str) -> str:
    """The job that a message's id belongs to."""
    return message_id.partition(".")[0]
