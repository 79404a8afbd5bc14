"""Webhooks of a whole service whose processes are killed."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from standardwebhooks.webhooks import Webhook

from api.services import Services
from tasks.api_keys import new_webhook_secret
from tasks.webhooks.deliveries import DeliveryState
from tests.support.cluster import Cluster, cluster, job, picture, submit, wait_for
from tests.support.receivers import Receiver, answering, receiver

pytestmark = pytest.mark.faults

SECRET = new_webhook_secret()
#: The promise: so soon after a job's end its event arrives, whatever other receivers do.
DELAY_SECONDS = 5


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {
        "RMBG_WEBHOOK_SECRET": SECRET,
        "RMBG_URL_ALLOW": "127.0.0.1",
    }
    with cluster(tmp_path_factory.mktemp("cluster"), **settings) as made:
        made.start_io()
        made.start_worker(0)
        yield made


@pytest.fixture
def services(made: Cluster) -> Services:
    return made.services(webhook_secret=SECRET, url_allow="127.0.0.1")


def submit_with_webhooks(services: Services, count: int, urls: list[str]) -> list[str]:
    """Submit jobs whose webhooks go to these receivers in turn."""
    return [
        submit(services, picture(number=number), webhook_url=urls[number % len(urls)])
        for number in range(count)
    ]


def ended(services: Services, task_ids: list[str]) -> bool:
    return all(job(services, each).status.final for each in task_ids)


def delivered(services: Services, task_id: str) -> bool:
    return [each.state for each in services.runtime.deliveries.of(task_id)] == [
        DeliveryState.DELIVERED
    ]


def verified(got: Receiver) -> list[str]:
    """The tasks whose webhooks arrived, with verified signatures."""
    return [
        Webhook(SECRET).verify(body, headers)["data"]["task_id"]
        for body, headers in zip(got.bodies, got.headers, strict=True)
    ]


def test_the_io_worker_dies_in_the_middle_of_a_delivery(made: Cluster, services: Services) -> None:
    held = threading.Event()

    def hang_once(request: object, before: int) -> None:
        if not before:
            held.wait(60)
        answering(200)(request, 0)  # type: ignore[arg-type]

    with receiver(hang_once) as got:
        task_id = submit(services, picture(), webhook_url=got.url)
        try:
            assert got.wait_for(1), made.logs()
            made.kill("io0")
        finally:
            held.set()
        made.restart("io0")
        # The dead sender's claim has to run out first.
        wait_for(lambda: delivered(services, task_id), 60, made, "a second attempt")
        assert set(verified(got)) == {task_id}
        assert len(set(got.ids)) == 1
        assert len(got.bodies) == 2


def test_sigterm_does_not_wait_for_a_receiver_that_hangs(made: Cluster, services: Services) -> None:
    held = threading.Event()

    def hang_once(request: object, before: int) -> None:
        if not before:
            held.wait(60)
        answering(200)(request, 0)  # type: ignore[arg-type]

    with receiver(hang_once) as got:
        task_id = submit(services, picture(), webhook_url=got.url)
        try:
            assert got.wait_for(1), made.logs()
            made.end("io0")
        finally:
            held.set()
        assert "worker.end_forced" not in (made.folder / "io0.log").read_text()
        (row,) = services.runtime.deliveries.of(task_id)
        assert (row.state, row.attempts) == (DeliveryState.PENDING, 0), made.logs()
        made.restart("io0")
        wait_for(lambda: delivered(services, task_id), 10, made, "the attempt of another worker")
        assert set(verified(got)) == {task_id}
        assert len(set(got.ids)) == 1


def test_every_process_dies_between_the_final_write_and_the_delivery(
    made: Cluster, services: Services
) -> None:
    made.kill("io0")
    with receiver(answering(200)) as got:
        task_ids = submit_with_webhooks(services, 2, [got.url])
        wait_for(lambda: ended(services, task_ids), 30, made, "the jobs' end")
        assert got.bodies == [], "no worker was there to send it"
        for name in ("gpu0", "valkey", "weed"):
            made.kill(name)
        made.heal()
        wait_for(
            lambda: all(delivered(services, each) for each in task_ids), 60, made, "the events"
        )
        assert sorted(verified(got)) == sorted(task_ids)


def test_redis_dies_while_events_are_sent(made: Cluster, services: Services) -> None:
    with receiver(answering(200)) as got:
        task_ids = [
            submit(services, picture(number=each), webhook_url=got.url) for each in range(8)
        ]
        assert got.wait_for(1), made.logs()
        made.kill("valkey")
        made.restart("valkey")
        wait_for(
            lambda: all(delivered(services, each) for each in task_ids), 90, made, "all events"
        )
        notified = dict(zip(got.ids, verified(got), strict=True))
        assert sorted(notified.values()) == sorted(task_ids), "each task under one id"


@pytest.mark.slow
def test_a_dead_receiver_among_twenty_delays_nobody(made: Cluster, services: Services) -> None:
    held = threading.Event()
    with ExitStack() as stack:
        dead = stack.enter_context(receiver(lambda _request, _before: hang(held)))
        good = [stack.enter_context(receiver(answering(200))) for _ in range(19)]
        task_ids = submit_with_webhooks(services, 200, [dead.url, *(each.url for each in good)])
        notified = [task_id for number, task_id in enumerate(task_ids) if number % 20]
        try:
            wait_for(lambda: ended(services, task_ids), 240, made, "200 jobs")
            wait_for(
                lambda: all(delivered(services, each) for each in notified), 30, made, "190 events"
            )
        finally:
            held.set()
    worst = max(delay(services, each) for each in notified)
    assert worst <= DELAY_SECONDS, f"an event came {worst:.1f} s after its job's end"


def hang(until: threading.Event) -> None:
    until.wait(120)


def delay(services: Services, task_id: str) -> float:
    """Seconds from a job's end to its event's arrival."""
    (row,) = services.runtime.deliveries.of(task_id)
    (attempt,) = services.runtime.deliveries.attempts(row.id)
    return attempt.at + attempt.ms / 1000 - row.created_at


def test_no_log_line_holds_a_secret_or_a_signed_address(made: Cluster, services: Services) -> None:
    with receiver(answering(500, 200)) as got:
        task_id = submit(services, picture(), webhook_url=f"{got.url}?token=hush-hush")
        wait_for(lambda: delivered(services, task_id), 60, made, "the second attempt")
        assert "X-Amz-Signature" in json.loads(got.bodies[0])["data"]["result_url"]
    logs = "".join(path.read_text(errors="replace") for path in made.folder.glob("*.log"))
    assert "webhook.attempted" in logs
    for hidden in (SECRET, SECRET.removeprefix("whsec_"), "hush-hush", "X-Amz-Signature"):
        assert hidden not in logs
