"""Routing: the names of tasks and queues, the choice of a job's queue, and its messages.

Tasks are sent by name, so that a sender imports no worker.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from tasks import lua_scripts
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import Job, Priority
from tasks.jobs.store import Dispatch, JobStore, Message
from tasks.redis_client import redis_errors
from tasks.worker_registry import DEFAULT_JOB_SECONDS, Worker

#: The Celery task that runs one job; its one argument is the job's id.
REMOVE_TASK: Final = "rmbg.remove"

#: The Celery task that attempts one webhook delivery; its one argument is the delivery's id.
DELIVER_TASK: Final = "rmbg.deliver"

#: The queue of attempts at webhooks; the I/O workers take from it, and do the periodic work.
WEBHOOK_QUEUE: Final = "webhooks"

#: Header of a message: its `dispatch_seq`, as in the record.
DISPATCH_SEQ_HEADER: Final = "rmbg_dispatch_seq"
#: Prefix of the queues that the worker of one GPU takes from.
GPU_PREFIX: Final = "gpu."
#: The Celery priority of all messages: priorities order an owner's jobs, and the claim chooses.
MESSAGE_PRIORITY: Final = Priority.NORMAL
#: Prefix of the queues that all workers of a model take from.
MODEL_PREFIX: Final = "model."


def model_queue(model: str) -> str:
    """Return the queue that all workers of a model take from."""
    return f"{MODEL_PREFIX}{model}"


def gpu_queue(host: str, index: int) -> str:
    """Return the queue of one GPU's worker, or of a CPU worker."""
    return f"{GPU_PREFIX}{host}.{index}"


def is_model_worker(app: Celery) -> bool:
    """Return whether the worker of this application takes from a model's or GPU's queue."""
    return any(is_model_queue(queue) for queue in app.amqp.queues.consume_from)


def is_io_worker(app: Celery) -> bool:
    """Return whether the worker of this application takes from the queue of webhooks."""
    return WEBHOOK_QUEUE in app.amqp.queues.consume_from


def is_model_queue(name: str) -> bool:
    """Return whether a queue carries jobs."""
    return name.startswith((GPU_PREFIX, MODEL_PREFIX))


@contextmanager
def broker_errors() -> Iterator[None]:
    """Turn the errors of Celery's transport into `QueueUnavailableError`."""
    try:
        yield
    except (OperationalError, RedisError, OSError) as error:
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error


@dataclass(frozen=True, slots=True)
class JobDispatcher:
    """Sends the messages of jobs to their queues."""

    app: Celery
    job_store: JobStore

    def send(self, job: Job) -> None:
        """Send the message whose dispatch the record has numbered.

        Raises:
            QueueUnavailableError: Redis does not answer; the reconciler sends it again.
        """
        # What Flower shows as the task's arguments; none of it is a secret.
        shown = {
            "model": job.model,
            "format": job.options.get("output_format"),
            "priority": job.priority.name.lower(),
            "request_id": job.request_id,
        }
        with broker_errors():
            self.app.send_task(
                REMOVE_TASK,
                args=[job.task_id],
                task_id=message_id(job),
                queue=job.queue,
                priority=int(MESSAGE_PRIORITY),
                headers={DISPATCH_SEQ_HEADER: job.dispatch_seq},
                kwargsrepr=repr(shown),
                retry=False,
            )

    def send_again(self, task_id: str, *, queue: str) -> bool:
        """Send another message for a job; False if it is not queued."""
        return bool(self.send_all([Dispatch(task_id, queue)]))

    def send_all(self, dispatches: Sequence[Dispatch]) -> list[Job]:
        """Send messages for those of the jobs that are queued, and return these.

        Raises:
            QueueUnavailableError: Redis went away; the reconciler finds messages that were numbered
                and not sent.
        """
        chosen = [job for job in self.job_store.record_dispatches(dispatches) if job is not None]
        for job in chosen:
            self.send(job)
        return chosen


def message_id(job: Job) -> str:
    """Return the id of a job's latest message.

    The first message's id is the task's id, so that Flower and the celery command find it. Later
    ones have ids `<task>.2`, `<task>.3` …, since workers discard a revoked id for ever.
    """
    return job.task_id if job.redispatches == 0 else f"{job.task_id}.{job.redispatches + 1}"


def task_id_of_message(message: str) -> str:
    """Return the job that a message's id names."""
    return message.partition(".")[0]


def redispatches_of_message(message: str) -> int:
    """Return how many messages of its job came before one, by its id; -1 if it is none of ours."""
    _, _, number = message.partition(".")
    if not number:
        return 0
    return int(number) - 1 if number.isdecimal() else -1


def message_of(request: Any) -> Message | None:  # noqa: ANN401 - celery publishes no types
    """Return the message that Celery's request is about; None if it has no dispatch number."""
    number = request.get(DISPATCH_SEQ_HEADER)
    sent_to = request.delivery_info or {}
    queue, level = sent_to.get("routing_key"), sent_to.get("priority")
    if not (isinstance(number, int) and isinstance(queue, str) and isinstance(level, int)):
        return None  # Something else has sent it.
    return Message(f"{queue}|{level}", number)


def expected_wait(job: Job, position: int, workers: Iterable[Worker]) -> float | None:
    """Return the seconds until a queued job is begun, at the workers' speed; None: nobody runs it.

    Args:
        job: it is queued.
        position: how many jobs of its queue go before it.
        workers: all of them.
    """
    serving = [each for each in workers if each.usable and each.model == job.model]
    # Where the GPU of its queue is gone, the job is soon sent to another one.
    own = [each for each in serving if each.queue == job.queue] or serving
    if not own:
        return None
    before = position + sum(each.running for each in own)
    # Of as many jobs as there are idle workers, each is begun at once.
    return max(0, before - len(own) + 1) * sum(each.seconds for each in own) / len(own) ** 2


RoutingMode = Literal["gpu", "shared"]

#: Jobs that are assigned to one GPU at a time: one that runs and one that waits. A third one would
#: wait behind a slow picture while another GPU is idle.
MAX_ASSIGNED: Final = 2


@dataclass(frozen=True, slots=True)
class Router:
    """Chooses a job's queue: that of a GPU that is nearly idle, or its model's shared one.

    A worker takes from its own queue before the shared one. So nothing is assigned to a GPU while
    jobs wait in the shared queue: they could wait for ever.
    """

    client: Redis
    routing: RoutingMode = "gpu"
    clock: Callable[[], float] = time.time

    def choose(self, model: str, *, excluded_worker: str | None = None) -> str:
        """Return the queue of the worker that would begin the job soonest, or the shared one.

        The excluded worker failed to run it.
        """
        shared = model_queue(model)
        if self.routing == "shared":
            return shared
        try:
            with redis_errors():
                return str(
                    lua_scripts.JOBS.run(
                        self.client,
                        "choose_queue",
                        model=model,
                        shared=shared,
                        now=self.clock(),
                        max_assigned=MAX_ASSIGNED,
                        default_seconds=DEFAULT_JOB_SECONDS,
                        excluded_worker=excluded_worker,
                    )
                )
        except QueueUnavailableError:
            return shared
