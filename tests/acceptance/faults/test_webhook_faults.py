"""Webhooks of a whole service whose processes are killed."""

from contextlib import ExitStack

import pytest

from tests.support.cluster import WORKERS, Cluster, picture
from tests.support.receivers import answering, holding, receiver

pytestmark = [pytest.mark.faults, pytest.mark.slow]

#: The promise: so soon after a job's end its event arrives, whatever other receivers do.
DELAY_SECONDS = 5


def submit_with_webhooks(made: Cluster, count: int, *urls: str) -> list[str]:
    """Submit jobs whose webhooks go to these receivers in turn."""
    return [
        made.submit(picture(number=number), webhook_url=urls[number % len(urls)])
        for number in range(count)
    ]


def test_the_io_worker_dies_in_the_middle_of_a_delivery(made: Cluster) -> None:
    with receiver(holding()) as got:
        (task_id,) = submit_with_webhooks(made, 1, got.url)
        assert got.wait_for(1), made.logs()
        made.kill("io0")
        got.let_go.set()
        made.restart("io0")
        # The dead sender's claim has to run out first.
        made.wait_for(lambda: made.delivered(task_id), 60, "a second attempt")
        assert set(made.verified(got)) == {task_id}
        assert len(set(got.ids)) == 1
        assert len(got.bodies) == 2


def test_every_process_dies_between_the_final_write_and_the_delivery(made: Cluster) -> None:
    made.kill("io0")
    with receiver(answering(200)) as got:
        task_ids = submit_with_webhooks(made, 2, got.url)
        made.wait_for(lambda: made.ended(task_ids), 30, "the jobs' end")
        assert got.bodies == [], "no worker was there to send it"
        made.kill(*WORKERS, "valkey", "weed")
        made.heal()
        made.wait_for(lambda: made.delivered(*task_ids), 60, "the events")
        assert sorted(made.verified(got)) == sorted(task_ids)


def test_redis_dies_while_events_are_sent(made: Cluster) -> None:
    with receiver(answering(200)) as got:
        task_ids = submit_with_webhooks(made, 8, got.url)
        assert got.wait_for(1), made.logs()
        made.kill("valkey")
        made.restart("valkey")
        made.wait_for(lambda: made.delivered(*task_ids), 90, "all events")
        notified = dict(zip(got.ids, made.verified(got), strict=True))
        assert sorted(notified.values()) == sorted(task_ids), "each task under one id"


def test_a_dead_receiver_among_twenty_delays_nobody(made: Cluster) -> None:
    with ExitStack() as stack:
        dead = stack.enter_context(receiver(holding()))
        good = [stack.enter_context(receiver(answering(200))) for _ in range(19)]
        task_ids = submit_with_webhooks(made, 200, dead.url, *(each.url for each in good))
        notified = [task_id for number, task_id in enumerate(task_ids) if number % 20]
        made.wait_for(lambda: made.ended(task_ids), 240, "200 jobs")
        made.wait_for(lambda: made.delivered(*notified), 30, "190 events")
    worst = max(_delay(made, each) for each in notified)
    assert worst <= DELAY_SECONDS, f"an event came {worst:.1f} s after its job's end"


def _delay(made: Cluster, task_id: str) -> float:
    """Seconds from a job's end to its event's arrival."""
    deliveries = made.services.runtime.deliveries
    (row,) = deliveries.of(task_id)
    (attempt,) = deliveries.attempts(row.id)
    return attempt.at + attempt.ms / 1000 - row.created_at
