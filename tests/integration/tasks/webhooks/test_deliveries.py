"""Records of deliveries: which events make one, how long it lives, and damaged ones."""

import pytest

from tasks import redis_keys
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import Status
from tasks.jobs.store import MAX_CRASHES, lease_holder, lease_token
from tasks.webhooks.deliveries import Attempt, DeliveryState, RetryDecision
from tests.support.outbox import Post
from tests.support.receivers import answering, receiver


def test_the_event_is_there_with_the_jobs_end(post: Post) -> None:
    job = post.finished("http://127.0.0.1:9/")
    (delivery,) = post.deliveries.of(job.task_id)
    assert (delivery.event, delivery.state) == ("removal.succeeded", DeliveryState.PENDING)
    assert post.deliveries.next_due(delivery.id) == post.clock()
    assert delivery.id.startswith(f"msg_{job.task_id}_")


def test_every_way_to_end_has_its_event(post: Post) -> None:
    url = "http://127.0.0.1:9/"
    failed, canceled, poison = post.job(url), post.job(url), post.job(url)
    late = post.job(url, deadline=post.clock() + 1)
    post.finish(failed, Status.FAILED)
    post.jobs.cancel(canceled.task_id)
    for attempt in range(MAX_CRASHES):
        token = lease_token("gpu0@test", attempt)
        post.jobs.claim(poison.task_id, token=token, worker="gpu0@test")
        post.jobs.crash(poison.task_id, holder=lease_holder("gpu0@test", attempt))
    post.clock.now += 2
    assert post.jobs.fail_overdue(late.task_id)
    jobs = (failed, canceled, poison, late)
    assert [post.delivery(job).event for job in jobs] == [
        "removal.failed",
        "removal.canceled",
        "removal.failed",
        "removal.failed",
    ]
    assert post.jobs.get(poison.task_id).error.type == "poison"


def test_events_that_were_not_asked_for_are_not_born(post: Post) -> None:
    quiet = post.finished("http://127.0.0.1:9/", webhook_events=["removal.failed"])
    asked = post.finished("http://127.0.0.1:9/", webhook_events=["removal.succeeded"])
    assert post.deliveries.of(quiet.task_id) == []
    assert len(post.deliveries.of(asked.task_id)) == 1
    assert post.deliveries.of(post.finished(None).task_id) == []


def test_a_job_that_runs_anew_has_a_second_event(post: Post) -> None:
    job = post.job("http://127.0.0.1:9/")
    post.finish(job, Status.FAILED)
    assert post.jobs.requeue(job.task_id)
    post.finish(job, result_key="results/x", format="png")
    first, second = post.deliveries.of(job.task_id)
    assert (first.event, second.event) == ("removal.failed", "removal.succeeded")
    assert first.id != second.id


@pytest.mark.parametrize("counted", ["attempts", "tries"])
def test_an_attempt_that_a_damaged_count_refuses_changes_nothing(post: Post, counted: str) -> None:
    delivery = post.delivery(post.finished("http://127.0.0.1:9/"))
    post.client.hset(redis_keys.delivery_key(delivery.id), counted, "x")
    record = post.client.hgetall(redis_keys.delivery_key(delivery.id))
    attempt = Attempt(post.clock(), "refused", 500, 1, "no")
    with pytest.raises(QueueUnavailableError, match="not an integer"):
        post.deliveries.record_attempt(
            delivery, "", attempt, RetryDecision(DeliveryState.DELIVERED, post.clock())
        )
    assert post.client.hgetall(redis_keys.delivery_key(delivery.id)) == record
    assert post.outcomes == {}
    assert not post.client.exists(redis_keys.attempts_key(delivery.id))


def test_rows_live_as_long_as_the_record_and_go_with_it(post: Post) -> None:
    job = post.finished("http://127.0.0.1:9/")
    record = post.client.ttl(redis_keys.job_key(job.task_id))
    assert abs(post.client.ttl(redis_keys.delivery_key(post.delivery(job).id)) - record) <= 1
    post.jobs.erase(job.task_id)
    assert not post.client.keys("*deliver*"), "an erased task leaves nothing behind"


@pytest.mark.parametrize("state", ["delivered", "dead"])
def test_a_final_delivery_is_dropped_only_while_it_waits(post: Post, state: str) -> None:
    with receiver(answering(200 if state == "delivered" else 410)) as got:
        job = post.finished(got.url)
        waiting = post.finished(got.url)
        assert post.deliveries.drop(post.delivery(waiting).id)
        post.run()
    assert post.delivery(waiting).state is DeliveryState.DROPPED
    assert post.deliveries.drop(post.delivery(job).id) is (state == "dead")


def test_a_row_that_cannot_be_read_holds_up_no_other(post: Post) -> None:
    with receiver(answering(200)) as there:
        bad, good = post.finished(there.url), post.finished(there.url)
        row = post.delivery(bad)
        post.client.hset(redis_keys.delivery_key(row.id), "created_at", "x")
        assert post.run() == 1
        assert post.delivery(good).state is DeliveryState.DELIVERED
        assert post.deliveries.next_due(row.id) == post.clock() + 60
        # Mended by hand, it goes out.
        post.client.hset(redis_keys.delivery_key(row.id), "created_at", row.created_at)
        assert post.run(61) == 1
    assert post.delivery(bad).state is DeliveryState.DELIVERED
