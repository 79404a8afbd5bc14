"""Owners take turns on each list, and messages go on to stand for jobs."""

from collections.abc import Callable
from typing import Any

import pytest
from celery.app.task import Context

from tasks import redis_keys
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Priority, Status, new_task_id
from tasks.jobs.routing import DISPATCH_SEQ_HEADER, message_of
from tasks.jobs.store import ClaimOutcome, Message, ReleaseOutcome, lease_holder, lease_token
from tests.support.counting import commands_of
from tests.support.jobs import claim
from tests.support.queues import AGING, OWN, SHARED, Queues

LIST = f"{SHARED}|3"


def _submit(queues: Queues, owners: str, **fields: object) -> dict[str, str]:
    """Accept a job of each of these owners in turn; owners by job."""
    return {queues.submit(owner=owner, **fields): owner for owner in owners}


@pytest.mark.parametrize(
    ("submitted", "run"),
    [
        ("x" * 9 + "y", "xy" + "x" * 8),
        ("xxxxyzzy", "xyzxyzxx"),
    ],
)
def test_owners_take_turns_and_each_has_its_own_jobs_run_in_order(
    queues: Queues, submitted: str, run: str
) -> None:
    jobs = _submit(queues, submitted, priority=Priority.HIGH)
    places = {each: queues.store.position(queues.job(each)) for each in jobs}
    order = [queues.run() or "" for _ in jobs]
    assert "".join(jobs[each] for each in order) == run
    assert [places[each] for each in order] == [*range(len(order))]
    for owner in run:
        own = [each for each in jobs if jobs[each] == owner]
        assert [each for each in order if jobs[each] == owner] == own


def test_who_was_served_longest_ago_is_next_and_who_never_was_before_all(queues: Queues) -> None:
    jobs = _submit(queues, "xxxyy")
    order = [queues.run(), queues.run()]
    jobs |= _submit(queues, "zyx")
    assert queues.store.position(queues.job([*jobs][5])) == 0
    order += [queues.run() for _ in range(6)]
    assert "".join(jobs[str(each)] for each in order) == "xyzxyxyx"


def test_priorities_order_the_jobs_of_one_owner_and_nobody_elses(queues: Queues) -> None:
    submitted = [*zip("xxxxyyzx", (6, 0, 3, 0, 6, 3, 3, 0), strict=True)]
    jobs = [queues.submit(Priority(level), owner=owner) for owner, level in submitted]
    places = [queues.store.position(queues.job(each)) for each in jobs]
    order = [jobs.index(queues.run() or "") for _ in jobs]
    assert order == [1, 5, 6, 3, 4, 7, 2, 0]
    assert [places[each] for each in order] == [*range(len(order))]
    queues.passes(3)
    assert {queues.job(each).redispatches for each in jobs} == {0}


def test_a_primary_goes_as_soon_as_its_most_urgent_duplicate(queues: Queues) -> None:
    queues.submit(owner="x")
    primary = queues.submit(Priority.LOW, owner="x", cache_key="k")
    for level in (Priority.HIGH, Priority.LOW):
        queues.submit(level, owner="x", cache_key="k", sent=False)
    assert queues.job(primary).redispatches == 0
    assert queues.run() == primary


@pytest.mark.parametrize(
    ("assigned", "shared"),
    [
        ({"owner": "x"}, {"owner": "y"}),
        ({"owner": "x", "priority": Priority.LOW}, {"owner": "x", "priority": Priority.HIGH}),
    ],
    ids=["another owner's turn", "what is more urgent"],
)
def test_what_a_worker_was_assigned_waits_for_whose_turn_it_is_in_the_shared_queue(
    queues: Queues, assigned: dict[str, Any], shared: dict[str, Any]
) -> None:
    queues.submit(owner="x", queue=OWN)
    assert queues.run(queue=OWN, model="u2netp")
    waits = queues.submit(queue=OWN, **assigned)
    goes_first = queues.submit(**shared)
    assert queues.run(queue=OWN, model="u2netp") == goes_first
    assert queues.job(waits).queue == SHARED
    queues.passes(3)
    assert queues.job(waits).redispatches == 0
    assert queues.run(model="u2netp") == waits


def test_jobs_that_exchange_messages_miss_none_and_a_lost_one_is_found(queues: Queues) -> None:
    jobs = _submit(queues, "xxxxy")
    assert [jobs[str(queues.run())] for _ in range(2)] == ["x", "y"]
    queues.passes(3)
    assert {queues.job(each).redispatches for each in jobs} == {0}
    # The message that was sent for the other owner's job is now that of the second one.
    lost = queues.redis.lpop(SHARED + "\x06\x163")
    queues.passes(3)
    waits = [each for each in jobs if not queues.status(each).final]
    assert lost
    assert [queues.job(each).redispatches for each in waits] == [0, 0, 0]
    queues.run()
    queues.run()
    queues.passes(2)
    assert sum(queues.job(each).redispatches for each in waits) == 1
    assert queues.run()
    assert queues.store.ids(Status.QUEUED) == []


def test_a_job_whose_message_is_sent_again_keeps_its_place(queues: Queues) -> None:
    jobs = [*_submit(queues, "xx")]
    assert queues.take(), "a message that is lost"
    queues.passes(3)
    assert queues.job(jobs[0]).redispatches == 1
    assert [queues.run(), queues.run()] == jobs


def _swapped(queues: Queues) -> tuple[str, str, str]:
    """Two jobs of `x` and one of `y`, whose turn comes with the second message of `x`."""
    first, second, other = _submit(queues, "xxy")
    assert queues.run() == first
    return second, other, lease_token("w", 1)


def test_a_crash_is_that_of_the_job_whose_turn_it_was_and_its_message_comes_back(
    queues: Queues,
) -> None:
    named, other, token = _swapped(queues)
    taken = queues.take_of(named)
    assert queues.claim(taken, token) == (ClaimOutcome.CLAIMED, other)
    assert queues.store.claimed_by(lease_holder("w", 2)) is None
    assert queues.store.claimed_by(lease_holder("w", 1)) == queues.store.claimed_by("w/") == other
    assert queues.store.crash(other, holder=lease_holder("w", 1)) is ReleaseOutcome.QUEUED
    assert queues.store.claimed_by("w/") is None
    assert queues.job(other).dispatch_seq == taken.message.number
    queues.give_back(taken)
    queues.passes(3)
    assert [queues.job(each).redispatches for each in (named, other)] == [0, 0]
    assert {queues.run(), queues.run()} == {named, other}
    assert (queues.job(named).crashes, queues.job(other).crashes) == (0, 1)


def test_a_message_that_a_worker_may_not_run_is_sent_again_for_its_job(queues: Queues) -> None:
    named, other, _ = _swapped(queues)
    taken = queues.take_of(named)
    queues.redis.hset(redis_keys.job_key(other), "excluded_worker", "w")
    assert queues.claim(taken, respect_exclusion=True) == (ClaimOutcome.EXCLUDED, other)
    assert queues.claim(taken, "u", worker="v") == (ClaimOutcome.CLAIMED, other)
    # Another worker's claim gave the message to the other job meanwhile.
    assert queues.store.postpone(other, seconds=1, message=taken.message) is False
    queues.passes(1)
    assert queues.job(named).redispatches == 0


def test_a_revoked_message_leaves_the_job_that_had_got_it_one(queues: Queues) -> None:
    jobs = [*_submit(queues, "xxy")]
    assert [queues.run(), queues.run()] == [jobs[0], jobs[2]]
    taken = queues.take_of(jobs[2])
    assert queues.store.cancel(taken.task_id) == "succeeded"
    assert queues.store.postpone(taken.task_id, seconds=0, message=taken.message)
    queues.passes(1)
    assert queues.run() == jobs[1]


def test_a_message_held_by_a_worker_is_that_of_the_job_with_its_number(queues: Queues) -> None:
    jobs = [*_submit(queues, "xxxy")]
    assert [queues.run(), queues.run()] == [jobs[0], jobs[3]]
    queues.redis.rpop(SHARED + "\x06\x163")
    taken = queues.take_of(jobs[3])
    queues.redis.hset(redis_keys.UNACKED, "tag", f'[{taken.text}, "", ""]')
    queues.redis.zadd(redis_keys.UNACKED_INDEX, {"tag": 4e9})
    queues.passes(3)
    assert [queues.job(each).redispatches for each in jobs] == [0, 0, 1, 0]


# -- a rolling upgrade ---------------------------------------------------------------------------


def _of_an_earlier_version(queues: Queues) -> None:
    """Forget what an earlier version does not keep: whose the jobs on the lists are."""
    for kind in ("turns", "waiting"):
        queues.redis.delete(*queues.redis.scan_iter(f"rmbg:{kind}:*"))


def _sent_by_priority(queues: Queues, task_id: str) -> None:
    """Have a job wait where an earlier version sends it: on the list of its priority."""
    job = queues.job(task_id)
    name = f"{SHARED}|{int(job.priority)}"
    queues.redis.hdel(redis_keys.job_key(task_id), "priority_level")
    queues.redis.zrem(redis_keys.dispatched_key(LIST), task_id)
    queues.redis.zadd(redis_keys.dispatched_key(name), {task_id: job.dispatch_seq})
    queues.redis.sadd(redis_keys.QUEUE_LISTS, name)
    queues.redis.lmove(list_key(LIST), list_key(name), "LEFT", "LEFT")


def test_jobs_that_an_earlier_version_dispatched_are_run_by_turns(queues: Queues) -> None:
    jobs = {}
    for level in Priority:
        for owner in "xxy":
            jobs[queues.submit(level, owner=owner)] = owner
            _sent_by_priority(queues, [*jobs][-1])
    _of_an_earlier_version(queues)
    first = queues.run(Priority.HIGH)
    assert first == next(iter(jobs))
    queues.passes(1)
    assert queues.store.lists() == [LIST]
    assert sorted(queues.messages()) == sorted(set(jobs) - {first})
    assert "".join(jobs[str(queues.run())] for _ in range(8)) == "yxyxyxxx"


def test_what_an_earlier_version_takes_off_a_list_holds_no_turn_up(queues: Queues) -> None:
    jobs = [*_submit(queues, "x" * 5 + "y")]
    waiting = f"rmbg:waiting:{LIST}:x"
    before = queues.redis.zrange(waiting, 0, -1, withscores=True)
    for gone in jobs[:4]:
        queues.store.cancel(gone)
    queues.redis.zadd(waiting, dict(before))
    assert {queues.run() for _ in jobs} == {None, jobs[4], jobs[5]}
    assert not queues.redis.exists(waiting)
    queues.passes(2)
    assert not [*queues.redis.scan_iter("rmbg:turns:*"), *queues.redis.scan_iter("rmbg:waiting:*")]


def test_what_a_worker_of_an_earlier_version_takes_costs_no_job_its_run(queues: Queues) -> None:
    jobs = [*_submit(queues, "xxy")]
    assert [queues.run(), queues.run()] == [jobs[0], jobs[2]]
    taken = queues.take_of(jobs[2])
    # It knows a message by its name alone, and this job is done.
    assert claim(queues.store, taken.task_id) is ClaimOutcome.FINAL
    queues.passes(2)
    assert queues.run() == jobs[1]


def test_what_an_earlier_version_takes_of_the_raised_holds_no_other_up(queues: Queues) -> None:
    queues.redis.sadd(f"rmbg:raised:{LIST}:x", "rm-gone-1", "rm-gone-2")
    job = queues.submit(Priority.LOW, owner="x")
    queues.clock.now += AGING
    queues.passes(1)
    assert queues.job(job).raised_priority is Priority.NORMAL


# -- what it costs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [Queues.run, lambda queues: queues.submit(owner=new_task_id())])
def test_no_step_takes_more_commands_with_more_owners_and_jobs(
    queues: Queues, step: Callable[[Queues], object]
) -> None:
    costs = []
    for _ in range(2):
        for number in range(60):
            queues.submit(owner=new_task_id() if number % 2 else "x")
        step(queues)
        costs.append(len(commands_of(queues.redis, lambda: step(queues))))
    # Fewer than the owners that came; an exchange of two messages takes some.
    assert costs[1] <= costs[0] + 10


def test_the_place_of_a_message_is_known_if_the_service_sent_it() -> None:
    info = {"routing_key": OWN, "priority": 3}
    for number, message in ((5, Message(f"{OWN}|3", 5)), ("5", None), (None, None)):
        headers = {DISPATCH_SEQ_HEADER: number, "delivery_info": info}
        assert message_of(Context(headers)) == message
