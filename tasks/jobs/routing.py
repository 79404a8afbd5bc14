"""Routing: the names of tasks and queues, the choice of a job's queue, and its messages.

Tasks are sent by name, so that a sender imports no worker.
"""

from collections.abc import Sequence
from typing import Final, Literal

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from tasks import redis_keys
from tasks.errors import QueueUnavailableError
from tasks.jobs.model import Job, Priority
from tasks.jobs.store import Dispatch, JobStore
from tasks.redis_client import redis_errors
from tasks.worker_registry import Worker, WorkerRegistry

#: Cut one picture out. Its one argument is the job's id.
REMOVE_TASK: Final = "rmbg.remove"

#: Attempt a webhook delivery. Its one argument is the delivery's id.
DELIVER_TASK: Final = "rmbg.deliver"

#: The queue of attempts at webhooks. Who takes from it is an I/O worker: it keeps house as well.
WEBHOOK_QUEUE: Final = "webhooks"

_MODEL_PREFIX: Final = "model."

_GPU_PREFIX: Final = "gpu."


def model_queue(model: str) -> str:
    """The queue that every worker of a model takes from."""
    return f"{_MODEL_PREFIX}{model}"


def gpu_queue(host: str, index: int) -> str:
    """The queue of one GPU (or of one CPU worker) alone."""
    return f"gpu.{host}.{index}"


#: Header of a message: its `dispatch_seq`, as in the record.
DISPATCH_SEQ_HEADER: Final = "rmbg_dispatch_seq"

#: Beginning of the names of queues that one GPU alone takes from, and of models' shared ones.
GPU_PREFIX: Final = "gpu."

MODEL_PREFIX: Final = "model."


def is_io_worker(app: Celery) -> bool:
    """Return whether the worker of this application takes from the queue of webhooks."""
    return WEBHOOK_QUEUE in app.amqp.queues.consume_from


def is_model_queue(name: str) -> bool:
    """Does a queue carry removal jobs?"""
    return name.startswith((GPU_PREFIX, MODEL_PREFIX))


class JobDispatcher:
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
                REMOVE_TASK,
                args=[job.task_id],
                task_id=message_id,
                queue=job.queue,
                priority=int(job.effective_priority),
                headers={DISPATCH_SEQ_HEADER: job.dispatch_seq},
                kwargsrepr=_displayed_arguments(job),
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailableError(f"Redis does not answer: {error}") from error

    def send_again(self, task_id: str, *, queue: str) -> bool:
        """Number and send another message for a queued job; False if it is not queued."""
        return bool(self.send_all([Dispatch(task_id, queue)]))

    def send_all(self, sendings: Sequence[Dispatch]) -> list[Job]:
        """Number and send messages for those of the jobs that are queued; returns these.

        Raises:
            QueueUnavailableError: Redis went away; what is numbered and not sent will be missed.
        """
        chosen = [job for job in self._store.record_dispatches(sendings) if job is not None]
        for job in chosen:
            self.send(job)
        return chosen


def _displayed_arguments(job: Job) -> str:
    """What Flower shows as the task's arguments beside its id; nothing in it is a secret."""
    facts = {
        "model": job.model,
        "format": job.options.get("output_format"),
        "priority": job.priority.name.lower(),
        "request_id": job.request_id,
    }
    return repr(facts)


def task_id_of_message(message_id: str) -> str:
    """The job that a message's id belongs to."""
    return message_id.partition(".")[0]


RoutingMode = Literal["gpu", "shared"]

#: Jobs that a worker is given before it asks for them: one that runs and one that waits. More
#: would wait behind a slow picture while another GPU is idle.
MAX_ASSIGNED: Final = 2


class Router:
    """Chooses among the live workers that serve a job's model."""

    def __init__(
        self, client: Redis, fleet: WorkerRegistry, *, routing: RoutingMode = "gpu"
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._routing = routing

    def choose(self, model: str, priority: Priority, *, excluded_worker: str | None = None) -> str:
        """The queue of the worker that would begin it soonest; the shared one if none is free."""
        shared = model_queue(model)
        if self._routing == "shared":
            return shared
        try:
            if self._waits(shared, priority):
                return shared
            return self._soonest(model, priority, excluded_worker) or shared
        except QueueUnavailableError:
            return shared

    def _waits(self, queue: str, priority: Priority) -> bool:
        """Does any job of that urgency, or of more, wait in a queue?"""
        with redis_errors(), self._client.pipeline() as pipe:
            for step in Priority:
                if step <= priority:
                    pipe.zcard(redis_keys.dispatched_key(f"{queue}|{int(step)}"))
            return any(pipe.execute())

    def _soonest(self, model: str, priority: Priority, excluded_worker: str | None) -> str | None:
        candidates = [
            worker
            for worker in self._fleet.workers()
            if worker.usable
            and worker.model == model
            and worker.queue
            and worker.name != excluded_worker
        ]
        waits = [
            (self._wait(worker, lengths, priority), worker.queue)
            for worker, lengths in zip(candidates, self._lengths(candidates), strict=True)
            if worker.running + sum(lengths.values()) < MAX_ASSIGNED
        ]
        return min(waits)[1] if waits else None

    def _wait(self, worker: Worker, lengths: dict[Priority, int], priority: Priority) -> float:
        """Expected seconds until the worker would begin: what it runs, and what goes before."""
        ahead = sum(length for step, length in lengths.items() if step <= priority)
        return (worker.running + ahead) * worker.seconds

    def _lengths(self, workers: list[Worker]) -> list[dict[Priority, int]]:
        """How many jobs wait in each worker's own queue, by priority."""
        if not workers:
            return []
        with redis_errors(), self._client.pipeline() as pipe:
            for worker in workers:
                for step in Priority:
                    pipe.zcard(redis_keys.dispatched_key(f"{worker.queue}|{int(step)}"))
            counts = iter(pipe.execute())
        return [{step: next(counts) for step in Priority} for _ in workers]
