"""Records of deliveries: which events make one, how long it lives, and damaged ones."""

import pytest

from tasks import redis_keys
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import Status
from tasks.webhooks.deliveries import Attempt, DeliveryState, RetryDecision
from tests.support.commands import crash
from tests.support.outbox import Post
from tests.support.receivers import holding


def test_every_way_to_end_has_its_event(post: Post) -> None:
    done = post.finished()
    delivery = post.delivery(done)
    assert delivery.state is DeliveryState.PENDING
    assert post.deliveries.next_due(delivery.id) == post.clock(), "it is there with the job's end"
    assert delivery.id.startswith(f"msg_{done.task_id}_")
    failed, canceled, poison = (post.job() for _ in range(3))
    late = post.job(deadline=post.clock() + 1)
    post.finish(failed, Status.FAILED)
    post.jobs.cancel(canceled.task_id)
    crash(post.jobs, poison.task_id)
    post.clock.now += 2
    assert post.jobs.fail_overdue(late.task_id)
    events = [post.delivery(job).event for job in (done, failed, canceled, poison, late)]
    ends = ("succeeded", "failed", "canceled", "failed", "failed")
    assert events == [f"removal.{each}" for each in ends]


def test_only_the_events_that_were_asked_for_are_born(post: Post) -> None:
    for fields, born in (
        ({"webhook_events": ["removal.failed"]}, 0),
        ({"webhook_events": ["removal.succeeded"]}, 1),
        ({"webhook_url": None}, 0),
    ):
        job = post.finished(**fields)
        assert len(post.deliveries.of(job.task_id)) == born


def test_a_job_that_runs_once_more_has_a_second_event(post: Post) -> None:
    job = post.job()
    post.finish(job, Status.FAILED)
    assert post.jobs.requeue(job.task_id)
    post.finish(job, result_key="results/x", format="png")
    first, second = post.deliveries.of(job.task_id)
    assert (first.event, second.event) == ("removal.failed", "removal.succeeded")
    assert first.id != second.id


@pytest.mark.parametrize("counted", ["attempts", "tries"])
def test_an_attempt_that_a_damaged_count_refuses_changes_nothing(post: Post, counted: str) -> None:
    delivery = post.delivery(post.finished())
    key = redis_keys.delivery_key(delivery.id)
    post.redis.hset(key, counted, "x")
    record = post.redis.hgetall(key)
    attempt = Attempt(post.clock(), "refused", 500, 1, "no")
    decision = RetryDecision(DeliveryState.DELIVERED, post.clock())
    with pytest.raises(QueueUnavailableError, match="not an integer"):
        post.deliveries.record_attempt(delivery, "", attempt, decision)
    assert post.redis.hgetall(key) == record
    assert post.outcomes == {}
    assert not post.redis.exists(redis_keys.attempts_key(delivery.id))


def test_rows_live_as_long_as_the_record_and_go_with_it(post: Post) -> None:
    job = post.finished()
    record = post.redis.expiretime(redis_keys.job_key(job.task_id))
    assert post.redis.expiretime(redis_keys.delivery_key(post.delivery(job).id)) == record
    post.jobs.erase(job.task_id)
    assert not post.redis.keys("*deliver*"), "an erased task leaves nothing behind"


def test_a_replay_during_an_attempt_is_sent_once_the_attempt_has_ended(post: Post) -> None:
    post.behave = holding()
    delivery = post.delivery(post.finished())
    post.start()
    assert post.got.wait_for(1)
    for _ in range(3):
        assert post.deliveries.replay(delivery.id, post.clock())
        # However often it is asked for: one attempt at a time, which holds one thread.
        assert post.dispatcher.run_once() == 0
        post.clock.now += 1
    post.got.let_go.set()
    assert post.wait() == ["delivered"]
    assert post.run() == 1
    assert post.got.ids == [delivery.id] * 2
    assert post.run(60) == 0
