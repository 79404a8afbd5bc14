"""The outbox and its dispatcher, with a clock that tests move."""

import base64
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from redis import Redis

from tasks import redis_keys
from tasks.api_keys import new_webhook_secret
from tasks.jobs.job import Job, JobError, Status
from tasks.jobs.routing import DELIVER_TASK, WEBHOOK_QUEUE
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.webhooks.deliveries import (
    Attempt,
    Delivery,
    DeliveryState,
    DeliveryStore,
    RetryDecision,
)
from tasks.webhooks.retry import RetryPolicy
from tests.support.clock import Clock
from tests.support.jobs import finish, make_job
from tests.support.receivers import Behaviour, Receiver, answering

PAUSES = (5.0, 300.0, 1800.0)


def attempted(
    rows: DeliveryStore,
    row: Delivery,
    state: DeliveryState,
    *,
    now: float,
    outcome: str = "refused",
    status: int | None = None,
    reason: str = "",
) -> None:
    """Make an attempt at a delivery, which gets this state by it."""
    rows.dispatch(row, now, seconds=30, limit=99, threads=99)
    claim = rows.claim(row, now, seconds=30)
    assert claim
    attempt = Attempt(now, outcome, status, 7, "what it answered")
    rows.record_attempt(row, claim.token, attempt, RetryDecision(state, now + 1, reason))


@dataclass
class Post:
    """The outbox, its dispatcher, and the threads of a worker that takes its messages."""

    redis: Redis
    redis_url: str
    objects: ObjectStore
    threads: ThreadPoolExecutor
    #: Where webhooks go unless a test says otherwise, and what is answered there.
    got: Receiver
    behave: Behaviour = field(default_factory=lambda: answering(200))
    clock: Clock = field(default_factory=lambda: Clock(1.8e9))
    secret: str | None = field(default_factory=new_webhook_secret)
    futures: list[Future[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = Settings.load(redis_url=self.redis_url, url_allow="127.0.0.1")
        runtime = Runtime(settings, redis=self.redis, object_store=self.objects)
        self.app, self.deliveries = runtime.celery_app, runtime.deliveries
        self.jobs = JobStore(self.redis, clock=self.clock)
        self.dispatcher = replace(runtime.webhook_dispatcher, clock=self.clock)
        self.runner = replace(
            runtime.delivery_runner,
            policy=RetryPolicy(PAUSES, lambda: 0.5),
            secrets=lambda _owner, _now: (self.secret,) if self.secret else (),
            seconds=10.0,
            clock=self.clock,
        )

    def messages(self) -> list[tuple[str, str]]:
        """Take all messages off the queue: their ids, and those of their deliveries."""
        taken = []
        while text := self.redis.rpop(WEBHOOK_QUEUE):
            message = json.loads(str(text))
            assert message["headers"]["task"] == DELIVER_TASK
            ((delivery_id,), _, _) = json.loads(base64.b64decode(message["body"]))
            taken.append((message["headers"]["id"], delivery_id))
        return taken

    def work(self) -> None:
        """Begin the attempts that the messages ask for."""
        for _, delivery_id in self.messages():
            self.futures.append(self.threads.submit(self.runner.run, delivery_id))

    def start(self) -> int:
        """Dispatch what is due, and begin its attempts; returns their number."""
        sent = self.dispatcher.run_once()
        self.work()
        return sent

    def wait(self) -> list[str]:
        """Wait for the end of all attempts; returns their outcomes."""
        done, self.futures = self.futures, []
        return [each.result(60) for each in done]

    def run(self, seconds: float = 0) -> int:
        """One pass after so many seconds, to its end."""
        self.clock.now += seconds
        sent = self.start()
        self.wait()
        return sent

    def job(self, **fields: object) -> Job:
        """A job that waits; its webhook goes to the receiver unless a field says otherwise."""
        now = self.clock()
        given = {"created_at": now, "expires_at": now + 86400, "webhook_url": self.got.url}
        return self.jobs.create(
            make_job(**{"options": {"output_format": "png"}, **given, **fields})
        ).job

    def finish(self, job: Job, status: Status = Status.SUCCEEDED, **facts: object) -> None:
        if status is Status.FAILED:
            facts["error"] = JobError("invalid_image", "It is no picture.")
        finish(self.jobs, job, status, **facts)

    def finished(self, **fields: object) -> Job:
        job = self.job(**fields)
        self.finish(job, result_key=f"results/{job.task_id}/1.png", format="png")
        return job

    @property
    def outcomes(self) -> dict[str, int]:
        """As the metrics count them."""
        counters = self.redis.hgetall(redis_keys.COUNTERS)
        webhooks = {name: int(counters[name]) for name in counters if name.startswith("webhook:")}
        return {name.removeprefix("webhook:"): number for name, number in webhooks.items()}

    def delivery(self, job: Job) -> Delivery:
        """The first delivery of a job, as it is now."""
        return self.deliveries.of(job.task_id)[0]
