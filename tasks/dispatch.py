"""Sends a job's id onto its queue; the record says everything else."""

from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import names
from tasks.errors import QueueUnavailableError
from tasks.jobs import Job
from tasks.store import JobStore, Sending


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
        message_id = (
            job.task_id if job.redispatches == 0 else f"{job.task_id}.{job.redispatches + 1}"
        )
        try:
            self._app.send_task(
                names.REMOVE_TASK,
                args=[job.task_id],
                task_id=message_id,
                queue=job.queue,
                priority=int(job.effective_priority),
                headers={names.SENDING_HEADER: job.dispatch_seq},
                kwargsrepr=_shown(job),
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailableError(f"Redis does not answer: {error}") from error

    def send_again(self, task_id: str, *, queue: str) -> bool:
        """Number and send another message for a queued job; False if it is not queued."""
        return bool(self.send_all([Sending(task_id, queue)]))

    def send_all(self, sendings: Sequence[Sending]) -> list[Job]:
        """Number and send messages for those of the jobs that are queued; returns these.

        Raises:
            QueueUnavailableError: Redis went away; what is numbered and not sent will be missed.
        """
        chosen = [job for job in self._store.record_dispatches(sendings) if job is not None]
        for job in chosen:
            self.send(job)
        return chosen


def _shown(job: Job) -> str:
    """What Flower shows as the task's arguments beside its id; nothing in it is a secret."""
    facts = {
        "model": job.model,
        "format": job.options.get("output_format"),
        "priority": job.priority.name.lower(),
        "request_id": job.request_id,
    }
    return repr(facts)


def job_id_of(message_id: str) -> str:
    """The job that a message's id belongs to."""
    return message_id.partition(".")[0]
