"""The outbox and its sender, with a clock that tests move."""

from dataclasses import dataclass, field

from redis import Redis

from tasks import redis_keys
from tasks.accounts.api_keys import new_webhook_secret
from tasks.housekeeping.periodic import payload_data
from tasks.ids import lease_token, new_task_id
from tasks.jobs.batches import BatchStore
from tasks.jobs.model import Job, JobError, Status
from tasks.jobs.store import JobStore
from tasks.net.http_client import HttpClient
from tasks.net.url_guard import AllowList, UrlGuard
from tasks.storage import object_keys
from tasks.storage.object_store import ObjectStore
from tasks.webhooks.attempt import DeliveryRunner, PayloadRenderer
from tasks.webhooks.delivery import Delivery
from tasks.webhooks.dispatcher import WebhookDispatcher
from tasks.webhooks.retry import HostBreaker, RetryPolicy
from tasks.webhooks.store import DeliveryStore

PAUSES = (5.0, 300.0, 1800.0)


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Post:
    """The outbox and its sender."""

    client: Redis
    objects: ObjectStore
    clock: Clock = field(default_factory=Clock)
    secret: str | None = field(default_factory=new_webhook_secret)
    seconds: float = 10.0

    def __post_init__(self) -> None:
        self.jobs = JobStore(self.client, clock=self.clock)
        self.deliveries = DeliveryStore(self.client)
        self.sender = self.make_sender()

    def make_sender(self) -> WebhookDispatcher:
        courier = DeliveryRunner(
            self.deliveries,
            HostBreaker(self.client),
            RetryPolicy(PAUSES, lambda: 0.5),
            PayloadRenderer(
                payload_data(self.jobs, BatchStore(self.client), self.objects, self.clock)
            ),
            HttpClient(UrlGuard(AllowList.parse("127.0.0.1"))),
            lambda _owner, _now: (self.secret,) if self.secret else (),
            1.0,
            self.seconds,
            self.clock,
        )
        return WebhookDispatcher(courier, threads=32)

    def job(self, url: str | None, **values: object) -> Job:
        task_id = new_task_id()
        now = self.clock()
        given = {
            "created_at": now,
            "expires_at": now + 86400,
            "webhook_url": url,
            "options": {"output_format": "png"},
            **values,
        }
        return self.jobs.create(
            Job(task_id, "u2netp", "model.u2netp", object_keys.original_key(task_id), **given)
        )

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

    def run(self, seconds: float = 0) -> int:
        """One pass after so many seconds, to its end."""
        self.clock.pass_(seconds)
        begun = self.sender.run_once()
        assert self.sender.settle(60)
        return begun

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
