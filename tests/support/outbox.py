"""The outbox and its dispatcher, with a clock that tests move."""

import base64
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from redis import Redis

from tasks import redis_keys
from tasks.api_keys import new_webhook_secret
from tasks.app import create_celery
from tasks.jobs.batches import BatchStore
from tasks.jobs.job import Job, JobError, Status
from tasks.jobs.routing import DELIVER_TASK, WEBHOOK_QUEUE
from tasks.jobs.store import JobStore, lease_token
from tasks.net.http_client import HttpClient
from tasks.net.url_guard import AllowList, UrlGuard
from tasks.object_store import ObjectStore
from tasks.settings import Settings
from tasks.webhooks.deliveries import Delivery, DeliveryStore
from tasks.webhooks.retry import HostBreaker, RetryPolicy
from tasks.webhooks.sending import DeliveryRunner, WebhookDispatcher, render_payload
from tests.support.clock import Clock
from tests.support.jobs import make_job

PAUSES = (5.0, 300.0, 1800.0)


@dataclass
class Post:
    """The outbox, its dispatcher, and the threads of a worker that takes its messages."""

    client: Redis
    redis_url: str
    objects: ObjectStore
    clock: Clock = field(default_factory=lambda: Clock(1.8e9))
    secret: str | None = field(default_factory=new_webhook_secret)
    seconds: float = 10.0

    def __post_init__(self) -> None:
        self.jobs = JobStore(self.client, clock=self.clock)
        self.deliveries = DeliveryStore(self.client)
        self.breaker = HostBreaker(self.client)
        self.app = create_celery(Settings.load(redis_url=self.redis_url))
        self.dispatcher = self.make_dispatcher()
        self.runner = self.make_runner()
        self.threads = ThreadPoolExecutor(32)
        self._futures: list[Future[str]] = []

    def close(self) -> None:
        self.threads.shutdown()
        self.app.close()

    def make_dispatcher(self) -> WebhookDispatcher:
        return WebhookDispatcher(
            self.app, self.client, self.deliveries, self.breaker, clock=self.clock
        )

    def make_runner(self) -> DeliveryRunner:
        return DeliveryRunner(
            self.deliveries,
            self.breaker,
            RetryPolicy(PAUSES, lambda: 0.5),
            partial(render_payload, self.jobs, BatchStore(self.client), self.objects),
            HttpClient(UrlGuard(AllowList.parse("127.0.0.1")), connect_seconds=1.0),
            lambda _owner, _now: (self.secret,) if self.secret else (),
            self.seconds,
            self.clock,
        )

    def messages(self) -> list[tuple[str, str]]:
        """Take all messages off the queue: their ids, and those of their deliveries."""
        taken = []
        while text := self.client.rpop(WEBHOOK_QUEUE):
            message = json.loads(str(text))
            assert message["headers"]["task"] == DELIVER_TASK
            ((delivery_id,), _, _) = json.loads(base64.b64decode(message["body"]))
            taken.append((message["headers"]["id"], delivery_id))
        return taken

    def work(self) -> None:
        """Begin the attempts that the messages ask for."""
        for _, delivery_id in self.messages():
            self._futures.append(self.threads.submit(self.runner.run, delivery_id))

    def start(self) -> int:
        """Dispatch what is due, and begin its attempts; returns their number."""
        sent = self.dispatcher.run_once()
        self.work()
        return sent

    def wait(self, seconds: float = 60) -> list[str]:
        """Wait for the end of all attempts; returns their outcomes."""
        done, self._futures = self._futures, []
        return [each.result(seconds) for each in done]

    def run(self, seconds: float = 0) -> int:
        """One pass after so many seconds, to its end."""
        self.clock.now += seconds
        sent = self.start()
        self.wait()
        return sent

    def job(self, url: str | None, **values: object) -> Job:
        now = self.clock()
        given = {
            "created_at": now,
            "expires_at": now + 86400,
            "webhook_url": url,
            "options": {"output_format": "png"},
            **values,
        }
        return self.jobs.create(make_job(**given)).job

    def finish(self, job: Job, status: Status = Status.SUCCEEDED, **facts: object) -> None:
        token = lease_token("gpu0@test", 1)
        self.jobs.claim(job.task_id, token=token, worker="gpu0@test")
        if status is Status.FAILED:
            facts["error"] = JobError("invalid_image", "It is no picture.")
        assert self.jobs.finish(job.task_id, token=token, status=status, **facts)

    def finished(self, url: str | None, **values: object) -> Job:
        job = self.job(url, **values)
        self.finish(job, result_key=f"results/{job.task_id}/1.png", format="png")
        return job

    @property
    def outcomes(self) -> dict[str, int]:
        """As the metrics count them."""
        counters = self.client.hgetall(redis_keys.COUNTERS)
        return {
            name.removeprefix("webhook:"): int(number)
            for name, number in counters.items()
            if name.startswith("webhook:")
        }

    def delivery(self, job: Job, number: int = 1) -> Delivery:
        return self.deliveries.of(job.task_id)[number - 1]
