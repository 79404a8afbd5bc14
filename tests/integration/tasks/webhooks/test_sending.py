"""From a job's end to a receiver that behaves well, badly, or not at all."""

import json
import threading
import time
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler

import pytest
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs

from tasks import redis_keys
from tasks.errors import UnreadableRecordError
from tasks.webhooks.deliveries import Delivery, DeliveryState
from tasks.webhooks.sending import DISPATCH_SECONDS, MAX_PER_HOST, MAX_QUEUED
from tests.support.outbox import Post
from tests.support.receivers import answering, receiver

PAUSES = (5.0, 300.0, 1800.0)


def test_a_receiver_can_verify_what_it_gets(post: Post) -> None:
    with receiver(answering(200)) as got:
        # The package compares with the real time.
        post.clock.now = time.time()
        job = post.finished(got.url, metadata={"order": 17})
        post.run()
    event = Webhook(post.secret).verify(got.bodies[0], got.headers[0])
    assert event["type"] == "removal.succeeded"
    assert event["data"]["task_id"] == job.task_id
    assert event["data"]["metadata"] == {"order": 17}
    assert len(got.bodies[0]) < 20_000
    assert post.delivery(job).state is DeliveryState.DELIVERED
    assert post.outcomes == {"delivered": 1}


def test_500_500_200(post: Post) -> None:
    with receiver(answering(500, 500, 200)) as got:
        job = post.finished(got.url)
        assert post.run() == 1
        assert post.run(PAUSES[0] - 0.1) == 0, "not before its time"
        assert post.run(0.2) == 1
        assert post.run(PAUSES[1]) == 1
        assert post.run(PAUSES[2]) == 0
    delivery = post.delivery(job)
    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 3)
    assert [each.status for each in post.deliveries.attempts(delivery.id)] == [500, 500, 200]
    assert len(set(got.ids)) == 1
    assert len({each["webhook-timestamp"] for each in got.headers}) == 3
    assert post.outcomes == {"refused": 2, "delivered": 1}


def test_the_body_is_made_anew_for_each_attempt(post: Post) -> None:
    with receiver(answering(500, 200)) as got:
        post.finished(got.url)
        post.run()
        post.run(PAUSES[0])
    first, second = (json.loads(body)["data"] for body in got.bodies)
    assert first["result_url"] != second["result_url"], "each is signed at its own time"
    assert first["task_id"] == second["task_id"]


def test_a_redirection_is_a_failure_and_not_followed(post: Post) -> None:
    with receiver(answering(200)) as other, receiver(answering(301, Location=other.url)) as got:
        job = post.finished(got.url)
        post.run()
        assert other.bodies == []
    assert post.delivery(job).state is DeliveryState.PENDING


def test_410_disables_the_target_until_somebody_replays(post: Post) -> None:
    with receiver(answering(410, 200)) as got:
        first = post.finished(got.url)
        post.run()
        post.run(1)
        assert post.delivery(first).state is DeliveryState.DEAD
        before = len(got.bodies)
        third = post.finished(got.url)
        post.run(1)
        assert len(got.bodies) == before, "a disabled target is not called"
        assert "410" in post.delivery(third).reason
        assert post.deliveries.replay(post.delivery(third).id, post.clock())
        post.run()
        assert post.delivery(third).state is DeliveryState.DELIVERED
        post.finished(got.url)
        post.run()
        assert len(got.bodies) == before + 2, "it took one, so it is there again"


def test_a_receiver_that_hangs_is_left_after_its_time(post: Post) -> None:
    post.seconds = 0.3
    post.runner = post.make_runner()
    ended = threading.Event()
    with receiver(lambda _request, _before: ended.wait(60)) as got:  # type: ignore[arg-type,return-value]
        job = post.finished(got.url)
        try:
            post.run()
        finally:
            ended.set()
    (attempt,) = post.deliveries.attempts(post.delivery(job).id)
    assert (attempt.outcome, attempt.status) == ("url_timeout", None)


@pytest.mark.parametrize("beginning", [b"", b"HTT", b"HTTP/1.1 20"])
def test_a_receiver_that_breaks_off_is_tried_again(post: Post, beginning: bytes) -> None:
    def close(request: BaseHTTPRequestHandler, before: int) -> None:
        if before:
            answering(200)(request, 0)
        else:
            request.wfile.write(beginning)

    with receiver(close) as got:
        job = post.finished(got.url)
        post.run()
        assert post.delivery(job).state is DeliveryState.PENDING
        post.run(PAUSES[0])
    assert post.delivery(job).state is DeliveryState.DELIVERED


@pytest.mark.parametrize(
    ("status", "state"),
    [(204, DeliveryState.DELIVERED), (200, DeliveryState.DELIVERED), (500, DeliveryState.PENDING)],
)
def test_an_answer_that_is_cut_off_counts_by_its_status(
    post: Post, status: int, state: DeliveryState
) -> None:
    def cut(request: BaseHTTPRequestHandler, _before: int) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"a beginning")

    with receiver(cut) as got:
        job = post.finished(got.url)
        post.run()
    (attempt,) = post.deliveries.attempts(post.delivery(job).id)
    assert attempt.status == status
    assert attempt.answer in ("a beginning", "")
    assert post.delivery(job).state is state


def test_an_answer_that_never_ends_took_too_long(post: Post) -> None:
    post.seconds = 0.5
    post.runner = post.make_runner()
    ended = threading.Event()

    def linger(request: BaseHTTPRequestHandler, _before: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        ended.wait(60)

    with receiver(linger) as got:
        job = post.finished(got.url)
        try:
            post.run()
        finally:
            ended.set()
    (attempt,) = post.deliveries.attempts(post.delivery(job).id)
    assert attempt.outcome == "url_timeout"


def test_a_receiver_that_sends_100_mb_is_not_read(post: Post) -> None:
    sent = []

    def flood(request: BaseHTTPRequestHandler, _before: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(100 * 2**20))
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x" * 2**20)
            sent.append(1)

    with receiver(flood) as got:
        job = post.finished(got.url)
        post.run()
    (attempt,) = post.deliveries.attempts(post.delivery(job).id)
    assert post.delivery(job).state is DeliveryState.DELIVERED
    assert len(attempt.answer) == 500
    assert len(sent) < 50


def test_a_receiver_that_is_down_for_a_minute(post: Post) -> None:
    with receiver(answering(200)) as gone:
        port = int(gone.url.split(":")[2].split("/")[0])
    jobs = [post.finished(gone.url) for _ in range(12)]
    for _ in range(60):
        post.run(1)
    assert {post.delivery(job).state for job in jobs} == {DeliveryState.PENDING}
    tried = sum(post.delivery(job).attempts for job in jobs)
    assert tried < 12 * 2 + 5, "the breaker keeps most attempts back"
    with receiver(answering(200), port) as got:
        for _ in range(120):
            if not post.deliveries.waiting(1):
                break
            post.run(10)
        assert {post.delivery(job).state for job in jobs} == {DeliveryState.DELIVERED}
        assert sorted(got.ids) == sorted(post.delivery(job).id for job in jobs)


def test_a_busy_receiver_is_left_alone_as_long_as_it_asks(post: Post) -> None:
    with receiver(answering(503, 200, Retry_After="120")) as got:
        first = post.finished(got.url)
        post.run()
        second = post.finished(got.url)
        post.run(60)
        assert len(got.bodies) == 1
        assert post.delivery(second).attempts == 0, "a pause of the host is no attempt"
        post.run(61)
        post.run(5)
    assert post.delivery(first).state is DeliveryState.DELIVERED
    assert post.delivery(second).state is DeliveryState.DELIVERED


def test_after_the_last_pause_it_is_dead_and_can_be_replayed(post: Post) -> None:
    with receiver(answering(500, 500, 500, 500, 200)) as got:
        job = post.finished(got.url)
        post.run()
        for pause in PAUSES:
            post.run(pause)
        assert post.delivery(job).state is DeliveryState.DEAD
        assert [each.id for each in post.deliveries.dead(10)] == [post.delivery(job).id]
        assert post.run(86400 / 2) == 0
        assert post.deliveries.replay(post.delivery(job).id, post.clock())
        post.run()
    assert post.delivery(job).state is DeliveryState.DELIVERED
    assert post.deliveries.dead(10) == []
    assert len(set(got.ids)) == 1


def test_what_has_expired_is_not_told(post: Post) -> None:
    with receiver(answering(500)) as got:
        job = post.finished(got.url, expires_at=post.clock() + 4)
        post.run()
        assert "expire" in post.delivery(job).reason
        late = post.finished(got.url, expires_at=post.clock() + 4)
        post.run(10)
        assert "expired" in post.delivery(late).reason
        assert len(got.bodies) == 1


def test_what_has_expired_is_told_to_who_asks_once_more(post: Post) -> None:
    with receiver(answering(200)) as got:
        job = post.finished(got.url, expires_at=post.clock() + 4)
        post.run(10)
        assert got.bodies == []
        assert post.deliveries.replay(post.delivery(job).id, post.clock())
        post.run()
    data = json.loads(got.bodies[0])["data"]
    assert (data["status"], data["result_url"]) == ("expired", None)
    assert post.delivery(job).state is DeliveryState.DELIVERED


@pytest.mark.parametrize("status", [200, 500])
def test_what_is_dropped_during_an_attempt_is_not_tried_again(post: Post, status: int) -> None:
    held = threading.Event()

    def hold(request: BaseHTTPRequestHandler, _before: int) -> None:
        held.wait(60)
        answering(status)(request, 0)

    with receiver(hold) as got:
        job = post.finished(got.url)
        post.start()
        assert got.wait_for(1)
        try:
            assert post.deliveries.drop(post.delivery(job).id)
        finally:
            held.set()
        post.wait()
        assert post.run(86400 / 2) == 0
    expected = DeliveryState.DELIVERED if status == 200 else DeliveryState.DROPPED
    assert post.delivery(job).state is expected
    assert post.deliveries.waiting(1) == []


def test_without_a_secret_nothing_is_sent(post: Post) -> None:
    post.secret = None
    with receiver(answering(200)) as got:
        job = post.finished(got.url)
        post.run()
        assert got.bodies == []
    assert post.outcomes == {"not_sent": 1}
    assert "RMBG_WEBHOOK_SECRET" in post.delivery(job).reason


def test_a_worker_that_dies_leaves_its_claim_to_others(post: Post) -> None:
    with receiver(answering(200)) as got:
        job = post.finished(got.url)
        assert claimed(post, post.delivery(job), seconds=30)
        assert post.run() == 0, "an attempt runs"
        assert post.run(31) == 1
    assert post.delivery(job).state is DeliveryState.DELIVERED
    assert len(got.bodies) == 1


def claimed(post: Post, delivery: Delivery, *, seconds: float) -> str | None:
    """The claim of a worker that has the delivery's message."""
    post.dispatcher.run_once()
    assert delivery.id in [each for _, each in post.messages()]
    return post.deliveries.claim(delivery, post.clock(), seconds=seconds)


def test_a_lost_message_is_sent_again_and_not_before_its_time(post: Post) -> None:
    with receiver(answering(200)) as got:
        job = post.finished(got.url)
        assert post.dispatcher.run_once() == 1
        webhook_id = post.delivery(job).id
        assert post.messages() == [(webhook_id, webhook_id)], "Flower finds it by its id"
        assert post.run(DISPATCH_SECONDS - 1) == 0
        assert post.dispatcher.run_once() == 0
        post.clock.now += 2
        assert post.dispatcher.run_once() == 1
        assert post.messages() == [(f"{webhook_id}.2", webhook_id)], "the first may be revoked"
        assert post.run(DISPATCH_SECONDS + 1) == 1
    assert post.delivery(job).state is DeliveryState.DELIVERED
    assert post.delivery(job).attempts == 1


def test_a_message_that_comes_twice_makes_one_attempt(post: Post) -> None:
    with receiver(answering(500, 200)) as got:
        webhook_id = post.delivery(post.finished(got.url)).id
        assert post.run() == 1
        assert post.runner.run(webhook_id) == "not_claimed", "after the attempt"
        post.clock.now += PAUSES[0] + 1
        assert post.runner.run(webhook_id) == "not_claimed", "before it is dispatched"
        post.dispatcher.run_once()
        assert sorted([post.runner.run(webhook_id), post.runner.run(webhook_id)]) == [
            "delivered",
            "not_claimed",
        ]
        post.run()
        assert len(got.bodies) == 2
    assert post.runner.run("msg_unknown_1") == "not_claimed"


def test_a_queue_that_nobody_takes_from_does_not_grow_for_ever(post: Post) -> None:
    for number in range(MAX_QUEUED + 20):
        post.finished(f"http://127.0.0.1:{9 + number}/")
    for _ in range(5):
        post.dispatcher.run_once()
        post.clock.now += DISPATCH_SECONDS + 1
    assert post.client.llen("webhooks") == MAX_QUEUED


def test_a_host_has_a_few_deliveries_in_flight(post: Post) -> None:
    with receiver(answering(200)) as got:
        jobs = [post.finished(got.url) for _ in range(MAX_PER_HOST + 3)]
        assert post.dispatcher.run_once() == MAX_PER_HOST
        assert post.make_dispatcher().run_once() == 0, "whoever dispatches"
        post.clock.now += 1
        assert post.dispatcher.run_once() == 0, "none has ended"
        post.work()
        post.wait()
        assert post.run(1) == 3
    assert {post.delivery(job).state for job in jobs} == {DeliveryState.DELIVERED}


def test_a_released_attempt_is_due_at_once_and_counts_as_none(post: Post) -> None:
    held = threading.Event()

    def hang_once(request: BaseHTTPRequestHandler, before: int) -> None:
        if not before:
            held.wait(60)
        answering(200)(request, 0)

    with receiver(hang_once) as got:
        job = post.finished(got.url)
        post.start()
        try:
            assert got.wait_for(1)
            assert not post.runner.running.wait(0.1)
            began = time.monotonic()
            post.runner.release_all()
            assert post.wait() == ["released"]
            assert time.monotonic() - began < 2, "its connection is shut down"
            assert post.runner.running.wait(0)
        finally:
            held.set()
        assert post.delivery(job).attempts == 0
        assert post.run() == 1
    assert post.delivery(job).state is DeliveryState.DELIVERED
    assert len(set(got.ids)) == 1


def test_a_damaged_count_of_messages_holds_up_no_other(post: Post) -> None:
    with receiver(answering(200)) as got:
        bad, good = post.finished(got.url), post.finished(got.url)
        post.client.hset(redis_keys.delivery_key(post.delivery(bad).id), "dispatches", "x")
        assert post.run() == 1
    assert post.delivery(good).state is DeliveryState.DELIVERED
    assert post.deliveries.next_due(post.delivery(bad).id) == post.clock() + 60


def test_tasks_that_are_damaged_keep_no_slot_of_their_host(post: Post) -> None:
    with receiver(answering(200)) as got:
        damaged = [post.finished(got.url) for _ in range(MAX_PER_HOST)]
        for job in damaged:
            post.client.hset(redis_keys.job_key(job.task_id), "created_at", "x")
        assert post.start() == MAX_PER_HOST
        ended, _ = wait(post._futures, 10)
        post._futures.clear()
        assert [type(each.exception()) for each in ended] == [UnreadableRecordError] * MAX_PER_HOST
        good = post.finished(got.url)
        assert post.run(1) == 1
    assert post.delivery(good).state is DeliveryState.DELIVERED
    assert post.deliveries.next_due(post.delivery(damaged[0]).id) == post.clock() + 59


def test_two_dispatchers_send_it_once(post: Post) -> None:
    other = post.make_dispatcher()
    with receiver(answering(200)) as got:
        jobs = [post.finished(got.url) for _ in range(20)]
        for _ in range(20):
            threads = [threading.Thread(target=each.run_once) for each in (post.dispatcher, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            post.work()
            post.wait()
            post.clock.now += 1
        assert len(got.bodies) == len(jobs)
        assert len(set(got.ids)) == len(jobs)


def test_one_dead_receiver_of_twenty_delays_nobody(post: Post) -> None:
    post.seconds = 2.0
    post.runner = post.make_runner()
    ended = threading.Event()
    with (
        receiver(lambda _request, _before: ended.wait(60)) as dead,
        receiver(  # type: ignore[arg-type,return-value]
            answering(200)
        ) as good,
    ):
        jobs = []
        for number in range(200):
            url = dead.url if number % 20 == 0 else good.url
            jobs.append(post.finished(url))
        try:
            began = time.monotonic()
            while len(good.bodies) < 190 and time.monotonic() - began < 30:
                post.start()
                post.clock.now += 0.5
                good.changed.acquire()
                good.changed.wait(0.05)
                good.changed.release()
            assert len(set(good.ids)) == 190
        finally:
            ended.set()
        post.wait()


def test_no_secret_and_no_address_reaches_the_log(post: Post) -> None:
    with capture_logs() as lines, receiver(answering(500, 200)) as got:
        job = post.finished(f"{got.url}?token=hush-hush")
        post.run()
        post.run(PAUSES[0])
    assert post.delivery(job).state is DeliveryState.DELIVERED
    text = json.dumps(lines, default=str)
    assert "webhook.attempted" in text
    for hidden in ("hush-hush", str(post.secret), "X-Amz-Signature", got.url):
        assert hidden not in text


def test_an_attempt_that_took_too_long_changes_nothing(post: Post) -> None:
    with receiver(answering(500)) as got:
        job = post.finished(got.url)
        row = post.delivery(job)
        claim = claimed(post, row, seconds=30)
        post.clock.now += 31
        assert claimed(post, row, seconds=30), "another worker took over"
        decision = post.runner.policy.decide(row, 410, None, post.clock())
        assert post.deliveries.record_attempt(row, claim, None, decision) == "late"
        assert post.delivery(job).state is DeliveryState.PENDING


def test_a_long_queue_of_one_host_hides_nobody_behind_it(post: Post) -> None:
    ended = threading.Event()

    def hold(request: BaseHTTPRequestHandler, _before: int) -> None:
        ended.wait(60)
        answering(200)(request, 0)

    with receiver(hold) as slow, receiver(answering(200)) as good:
        for _ in range(450):
            post.finished(slow.url)
        post.finished(good.url)
        try:
            post.start()
            assert good.wait_for(1), "one pass has to reach it"
        finally:
            ended.set()
        post.wait()
