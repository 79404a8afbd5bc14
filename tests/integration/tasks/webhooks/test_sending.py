"""From a job's end to a receiver that behaves well, badly, or not at all."""

import json
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest

from deploy.local.ports import reserved_ports
from tasks import redis_keys
from tasks.errors import UnreadableRecordError
from tasks.housekeeping.clock_check import ClockCheck
from tasks.jobs.job import Job
from tasks.webhooks import deliveries, sending
from tasks.webhooks.deliveries import (
    NOT_DUE,
    Attempt,
    Claim,
    Delivery,
    DeliveryState,
    DeliveryStore,
    RetryDecision,
)
from tasks.webhooks.retry import FAILURE_THRESHOLD, FIRST_OPEN_SECONDS
from tasks.webhooks.sending import DISPATCH_SECONDS, MAX_PER_HOST, SHORT_SECONDS, THREADS
from tests.support.counting import REDIS, counted_calls
from tests.support.outbox import PAUSES, Post
from tests.support.receivers import answering, holding, receiver

DELIVERED, PENDING, DEAD = DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.DEAD
LONG = b"\r\nContent-Length: 1000\r\n\r\n"
UNREACHABLE, TIMEOUT = "url_unreachable", "url_timeout"


def states(post: Post, *jobs: Job) -> set[DeliveryState]:
    return {post.delivery(job).state for job in jobs}


def dispatch_and_claim(post: Post, job: Job) -> Claim:
    """The claim of a worker that has the delivery's message."""
    post.dispatcher.run_once()
    assert post.delivery(job).id in [each for _, each in post.messages()]
    return post.deliveries.claim(post.delivery(job), post.clock(), seconds=30)


def test_a_webhook_costs_few_round_trips(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """These counts do not depend on the clock; who raises one knows what each job pays."""
    post.finished()
    post.run()  # the first also connects, and loads the scripts
    post.finished()
    counts = counted_calls(monkeypatch)
    assert post.run() == 1
    assert counts[REDIS] <= 16


def test_it_is_tried_after_each_pause_then_is_dead_and_can_be_replayed(post: Post) -> None:
    post.behave = answering(500, 500, 500, 500, 200)
    job = post.finished()
    assert post.run() == 1
    for pause in PAUSES:
        assert post.run(pause - 0.1) == 0, "not before its time"
        assert post.run(0.2) == 1
    assert states(post, job) == {DEAD}
    assert [each.id for each in post.deliveries.dead(10)] == [post.delivery(job).id]
    assert post.run(86400 / 2) == 0
    assert post.deliveries.replay(post.delivery(job).id, post.clock())
    post.run()
    assert states(post, job) == {DELIVERED}
    assert post.deliveries.dead(10) == []
    attempts = post.deliveries.attempts(post.delivery(job).id)
    assert [each.status for each in attempts] == [500, 500, 500, 500, 200]
    assert len(set(post.got.ids)) == 1
    assert len({each["webhook-timestamp"] for each in post.got.headers}) == 5
    data = [json.loads(body)["data"] for body in post.got.bodies]
    assert len({each["urls_expire_at"] for each in data}) == 5, "each is signed at its own time"
    assert {each["task_id"] for each in data} == {job.task_id}
    assert post.outcomes == {"refused": 4, "delivered": 1}


def test_410_disables_the_target_until_somebody_replays(post: Post) -> None:
    post.behave = answering(410, 200)
    first = post.finished()
    post.run()
    assert states(post, first) == {DEAD}
    second = post.finished()
    post.run(1)
    assert len(post.got.bodies) == 1, "a disabled target is not called"
    assert "410" in post.delivery(second).reason
    assert post.deliveries.replay(post.delivery(second).id, post.clock())
    post.run()
    third = post.finished()
    post.run()
    assert states(post, second, third) == {DELIVERED}, "it took one, so it is there again"


@pytest.mark.parametrize(
    ("text", "hangs", "end"),
    [
        (b"", False, (UNREACHABLE, None, PENDING)),
        (b"HTTP/1.1 20", False, (UNREACHABLE, None, PENDING)),
        (b"HTTP/1.1 204 -" + LONG + b"some", False, ("delivered", 204, DELIVERED)),
        (b"HTTP/1.1 500 -" + LONG + b"some", False, ("refused", 500, PENDING)),
        (b"", True, (TIMEOUT, None, PENDING)),
        (b"HTTP/1.1 200 -" + LONG, True, (TIMEOUT, None, PENDING)),
    ],
)
def test_an_answer_that_is_cut_off_or_never_ends(
    post: Post, text: bytes, end: tuple[str, int | None, DeliveryState], *, hangs: bool
) -> None:
    post.runner = replace(post.runner, seconds=0.3 if hangs else 10.0)
    behave = holding(text) if hangs else lambda request, _before: request.wfile.write(text)
    post.behave = behave
    job = post.finished()
    post.run()
    (attempt,) = post.deliveries.attempts(post.delivery(job).id)
    assert (attempt.outcome, attempt.status, post.delivery(job).state) == end


def test_a_receiver_that_is_down_for_a_minute(post: Post) -> None:
    # One attempt after the other, so that the last failure decides how long the breaker is open.
    with reserved_ports() as (port, *_), ThreadPoolExecutor(1) as post.threads:
        jobs = [post.finished(webhook_url=f"http://127.0.0.1:{port}/") for _ in range(12)]
        for _ in range(12):
            post.run(5)
        tried = sum(post.delivery(job).attempts for job in jobs)
        assert tried == 2 * MAX_PER_HOST, "without a breaker each would be tried twice"
        with receiver(answering(200), port) as got:
            for _ in range(120):
                post.run(10)
        assert states(post, *jobs) == {DELIVERED}
        assert sorted(got.ids) == sorted(post.delivery(job).id for job in jobs)


def test_a_busy_receiver_is_left_alone_by_the_owner_that_it_answered(post: Post) -> None:
    post.behave = answering(503, 200, Retry_After="120")
    first = post.finished()
    post.run()
    second, other = post.finished(), post.finished(owner="2")
    post.run(60)
    assert states(post, other) == {DELIVERED}
    assert post.delivery(second).attempts == 0, "a pause of the host is no attempt"
    post.run(61)
    post.run(5)
    assert states(post, first, second) == {DELIVERED}


def test_a_clock_that_jumps_ends_no_delivery(post: Post) -> None:
    check = ClockCheck(post.redis, redis_time=lambda _: post.clock())
    check.confirm()
    post.behave = answering(500)
    job, late = (post.finished(expires_at=post.clock() + 4000) for _ in range(2))
    post.deliveries.postpone({post.delivery(late).id: post.clock() + 4001}, post.clock())
    post.run(3997)
    # Its next attempt would be after the expiry, and the other one's is.
    post.run(10)
    assert states(post, job, late) == {PENDING}
    check.confirm()
    post.run(60)
    assert states(post, job, late) == {DEAD}
    assert len(post.got.bodies) == 1


def test_what_has_expired_is_not_sent_unless_somebody_replays_it(post: Post) -> None:
    post.behave = answering(500, 200)
    job, late = (post.finished(expires_at=post.clock() + 4) for _ in range(2))
    post.deliveries.postpone({post.delivery(late).id: post.clock() + 1}, post.clock())
    post.run()
    assert "expire" in post.delivery(job).reason
    post.run(10)
    assert "expired" in post.delivery(late).reason
    assert len(post.got.bodies) == 1
    assert post.deliveries.replay(post.delivery(late).id, post.clock())
    post.run()
    data = json.loads(post.got.bodies[1])["data"]
    assert (data["status"], data["result_url"]) == ("expired", None)
    assert states(post, late) == {DELIVERED}


def test_a_replay_while_a_worker_begins_an_attempt_is_made_by_that(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = DeliveryStore.get

    def replayed_then(store: DeliveryStore, webhook_id: str) -> Delivery | None:
        before = read(store, webhook_id)
        store.replay(webhook_id, post.clock())
        return before

    job = post.finished(expires_at=post.clock() + 4)
    post.clock.now += 5
    monkeypatch.setattr(DeliveryStore, "get", replayed_then)
    post.run()
    assert states(post, job) == {DELIVERED}, "the replay of an event that has expired"


@pytest.mark.parametrize(
    ("status", "state"), [(200, DELIVERED), (500, DeliveryState.DROPPED)], ids=["200", "500"]
)
def test_what_is_dropped_during_an_attempt_is_not_tried_again(
    post: Post, status: int, state: DeliveryState
) -> None:
    post.behave = holding(then=answering(status))
    job = post.finished()
    post.start()
    assert post.got.wait_for(1)
    webhook_id = post.delivery(job).id
    assert post.redis.zscore("rmbg:webhooks:in_flight_slow", webhook_id), "it has its full time"
    assert post.deliveries.drop(webhook_id)
    post.got.let_go.set()
    post.wait()
    assert post.run(86400 / 2) == 0
    assert states(post, job) == {state}
    assert post.deliveries.waiting(1) == []


@pytest.mark.parametrize(
    ("owner", "reason"), [("", "RMBG_WEBHOOK_SECRET"), ("own-1", "own-1 has no API key any more")]
)
def test_without_a_secret_nothing_is_sent(post: Post, owner: str, reason: str) -> None:
    post.secret = None
    job = post.finished(owner=owner)
    post.run()
    assert post.got.bodies == []
    assert post.outcomes == {"not_sent": 1}
    assert reason in post.delivery(job).reason


def test_a_worker_that_dies_or_is_too_slow_leaves_its_claim_to_others(post: Post) -> None:
    job = post.finished()
    row, claim = post.delivery(job), dispatch_and_claim(post, job)
    assert post.run() == 0, "an attempt runs"
    post.clock.now += 31
    dispatch_and_claim(post, job)  # another worker took over
    decision = post.runner.policy.decide(row, 410, None, post.clock())
    assert post.deliveries.record_attempt(row, claim.token, None, decision) == "late"
    assert states(post, job) == {PENDING}
    assert post.run(31) == 1
    assert states(post, job) == {DELIVERED}
    assert len(post.got.bodies) == 1


def test_a_lost_message_is_sent_again_and_not_before_its_time(post: Post) -> None:
    job = post.finished()
    webhook_id = post.delivery(job).id
    assert post.dispatcher.run_once() == 1
    assert post.messages() == [(webhook_id, webhook_id)], "Flower finds it by its id"
    assert post.run(DISPATCH_SECONDS - 1) == 0
    post.clock.now += 2
    assert post.dispatcher.run_once() == 1
    assert post.messages() == [(f"{webhook_id}.2", webhook_id)], "the first may be revoked"
    assert post.run(DISPATCH_SECONDS + 1) == 1
    assert (post.delivery(job).state, post.delivery(job).attempts) == (DELIVERED, 1)


def test_a_message_that_comes_twice_makes_one_attempt(post: Post) -> None:
    post.behave = answering(500, 200)
    row = post.delivery(post.finished())
    webhook_id = row.id
    assert post.run() == 1
    # A dispatcher that read it before another one sent it.
    assert post.deliveries.dispatch(row, post.clock(), seconds=9, limit=4, threads=9) == NOT_DUE
    assert post.runner.run(webhook_id) == "not_claimed", "after the attempt"
    post.clock.now += PAUSES[0] + 1
    assert post.runner.run(webhook_id) == "not_claimed", "before it is dispatched"
    post.dispatcher.run_once()
    twice = [post.runner.run(webhook_id) for _ in range(2)]
    assert twice == ["delivered", "not_claimed"]
    post.run()
    assert len(post.got.bodies) == 2
    assert post.runner.run("msg_unknown_1") == "not_claimed"


def test_the_queue_does_not_grow_for_ever(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_QUEUED", 5)
    for number in range(8):
        post.finished(webhook_url=f"http://127.0.0.1:{9 + number}/")
    for _ in range(5):
        post.dispatcher.run_once()
        post.clock.now += DISPATCH_SECONDS + 1
    assert post.redis.llen("webhooks") == 5


def test_a_host_has_a_few_deliveries_in_flight(post: Post) -> None:
    jobs = [post.finished() for _ in range(MAX_PER_HOST + 3)]
    assert post.dispatcher.run_once() == MAX_PER_HOST
    assert replace(post.dispatcher).run_once() == 0, "another dispatcher counts them too"
    post.clock.now += 1
    assert post.dispatcher.run_once() == 0, "none has ended"
    post.work()
    post.wait()
    assert post.run(1) == 3
    assert states(post, *jobs) == {DELIVERED}


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
def test_attempts_at_what_was_erased_or_dropped_make_room(
    post: Post, *, dropped: bool, recorded: bool
) -> None:
    rows = [post.delivery(post.finished()) for _ in range(MAX_PER_HOST)]
    assert post.dispatcher.run_once() == MAX_PER_HOST
    for row in rows:
        claim = post.deliveries.claim(row, post.clock(), seconds=30)
        if dropped:
            post.deliveries.drop(row.id)
        else:
            post.jobs.erase(row.subject)
        if recorded:
            decision = RetryDecision(PENDING, post.clock())
            post.deliveries.record_attempt(row, claim.token, None, decision)
        else:
            post.deliveries.release(row, claim.token, post.clock())
    post.finished()
    assert post.dispatcher.run_once() == 1


def test_a_host_that_hangs_delays_no_other(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_PAGE_SIZE", 6)
    post.runner = replace(post.runner, seconds=60)
    with (
        ThreadPoolExecutor(MAX_PER_HOST + 1) as post.threads,
        receiver(holding()) as slow,
        receiver(answering(200)) as good,
    ):
        for url in (*[slow.url] * 13, good.url):
            post.finished(webhook_url=url)
            post.clock.now += 0.01  # so that they are due in this order
        post.start()
        assert good.wait_for(1), "one pass has to reach it, and one thread is free"
        slow.let_go.set()
        post.wait()


@pytest.mark.parametrize("field", ["created_at", "dispatches"])
def test_a_damaged_delivery_holds_up_no_other_and_goes_once_mended(post: Post, field: str) -> None:
    bad, good = post.finished(), post.finished()
    webhook_id = post.delivery(bad).id
    key = redis_keys.delivery_key(webhook_id)
    before = post.redis.hget(key, field)
    post.redis.hset(key, field, "x")
    assert post.run() == 1
    assert states(post, good) == {DELIVERED}
    assert post.deliveries.next_due(webhook_id) == post.clock() + 60
    post.redis.hset(key, field, before or 0)
    assert post.run(61) == 1
    assert states(post, bad) == {DELIVERED}


def test_tasks_that_are_damaged_keep_no_slot_of_their_host(post: Post) -> None:
    damaged = [post.finished() for _ in range(MAX_PER_HOST)]
    for job in damaged:
        post.redis.hset(redis_keys.job_key(job.task_id), "created_at", "x")
    assert post.start() == MAX_PER_HOST
    ended, _ = wait(post.futures, 60)
    post.futures.clear()
    assert [type(each.exception()) for each in ended] == [UnreadableRecordError] * MAX_PER_HOST
    good = post.finished()
    assert post.run(1) == 1
    assert states(post, good) == {DELIVERED}
    assert post.deliveries.next_due(post.delivery(damaged[0]).id) == post.clock() + 59


def test_one_owners_many_hosts_leave_threads_to_each_other_owner(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_PAGE_SIZE", 80)
    for number in range(100):
        post.finished(webhook_url=f"http://127.0.0.1:{20_000 + number}/", owner="slow")
    quick = post.finished(webhook_url="http://127.0.0.1:9/", owner="quick")
    assert post.dispatcher.run_once() == THREADS // 2 + 1, "though a page is 80 of the slow one's"
    assert post.delivery(quick).id in [each for _, each in post.messages()]
    post.clock.now += 1
    assert len(post.deliveries.due(post.clock(), 1000)) < 60, "it comes back little by little"
    second = [
        post.finished(webhook_url=f"http://127.0.0.1:{number + 1}/", owner="2")
        for number in range(20)
    ]
    post.clock.now += 4
    assert post.dispatcher.run_once() == (THREADS - THREADS // 2) // 2, "a share of what is left"
    taken = {each for _, each in post.messages()}
    assert taken < {post.delivery(job).id for job in second}


def _end_slow(post: Post, row: Delivery, claim: Claim) -> None:
    """End an attempt at a receiver that has not answered in the claim's time."""
    now = post.clock()
    if claim.short:
        post.deliveries.release(row, claim.token, now + 1, slow_at=now)
    else:
        slow = Attempt(now - 15, TIMEOUT, None, 15_000, "")
        post.deliveries.record_attempt(row, claim.token, slow, RetryDecision(PENDING, now + 5))


def test_owners_that_turn_slow_at_once_delay_a_quick_one_by_seconds(post: Post) -> None:
    for number in range(THREADS + 8):
        post.finished(webhook_url="http://127.0.0.1:9/", owner=f"slow {number}")
    running, waits = [], []
    for step in range(24):
        post.clock.now += 1
        now = post.clock()
        for _, row, claim in [each for each in running if each[0] <= now]:
            _end_slow(post, row, claim)
        running = [each for each in running if each[0] > now]
        if step % 3 == 0:
            post.finished(webhook_url="http://127.0.0.1:8/", owner="quick")
        post.dispatcher.run_once()
        for _, webhook_id in post.messages():
            row = post.deliveries.get(webhook_id)
            claim = post.deliveries.claim(row, now, seconds=20, short=7.5, threads=THREADS)
            lapse = post.deliveries.next_due(webhook_id)
            assert lapse == now + (7.5 if claim.short else 20), "no other attempt begins before"
            if row.owner == "quick":
                waits.append(now - row.created_at)
                end = RetryDecision(DELIVERED, now)
                post.deliveries.record_attempt(row, claim.token, None, end)
            else:
                running.append((now + (SHORT_SECONDS if claim.short else 15), row, claim))
        assert len(running) <= THREADS
    assert len(waits) == 24 / 3
    assert max(waits) <= 2 * SHORT_SECONDS
    post.clock.now += 400
    assert post.dispatcher.run_once() == THREADS, "nobody is slow for ever"


def test_an_attempt_cut_short_counts_as_none(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SHORT_SECONDS", 0.2)
    others = {f"other {number}": post.clock() + 0.5 for number in range(THREADS // 2)}
    post.redis.zadd("rmbg:webhooks:in_flight_slow", others)
    post.behave = holding()
    job = post.finished()
    post.start()
    assert post.wait() == ["cut_short"]
    assert post.run(0.1) == 0
    assert post.deliveries.attempts(post.delivery(job).id) == []
    post.clock.now += 1
    before = len(post.got.ids)  # on a slow machine, the receiver may not have got the first attempt
    post.start()
    assert post.got.wait_for(before + 1)
    post.got.let_go.set()
    assert post.wait() == ["delivered"]
    assert len(set(post.got.ids)) == 1


def test_a_shorter_pause_never_ends_a_longer_one(post: Post) -> None:
    breaker, now = post.runner.breaker, post.clock()
    breaker.pause("o", "h", now, 100)
    for _ in range(FAILURE_THRESHOLD):
        breaker.record_failure("o", "h", now)
    assert breaker.state("o", "h").open_until == now + 100
    breaker.record_success("o", "h")
    for _ in range(FAILURE_THRESHOLD + 1):
        breaker.record_failure("o", "h", now)
    breaker.pause("o", "h", now, 1)
    assert breaker.state("o", "h").open_until == now + 2 * FIRST_OPEN_SECONDS
    assert breaker.state("p", "h").failures == 0


def test_the_latest_gone_targets_are_known(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_MAX_GONE", 3)
    first = post.delivery(post.finished())
    targets = [replace(first, url=f"http://127.0.0.1:9/{number}") for number in range(5)]
    for number, target in enumerate(targets):
        post.deliveries.disable(target, post.clock() + number)
    month = post.clock() + 30 * 24 * 3600
    for now, known in ((post.clock(), 3), (month + 2, 2)):
        gone = [post.deliveries.disabled(each, now) for each in targets]
        assert gone == [False] * (5 - known) + [True] * known
    post.deliveries.enable(targets[4])
    assert not post.deliveries.disabled(targets[4], month)
    assert not post.deliveries.disabled(replace(targets[3], owner="another"), month)
    assert post.redis.ttl(redis_keys.gone_targets_key(first.owner)) > 0
