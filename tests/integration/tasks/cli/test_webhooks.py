"""The operator's commands `celery -A tasks.app webhooks …`, against a real Valkey."""

from importlib.metadata import entry_points

import pytest
from click import Command
from redis import Redis

from tasks.cli.webhooks import webhooks
from tasks.jobs.store import JobStore
from tasks.webhooks.deliveries import Attempt, DeliveryState, DeliveryStore, RetryDecision
from tests.support.clock import Clock
from tests.support.commands import Operator
from tests.support.jobs import make_job

UNKNOWN = "msg_rm-20260101-unknown_1"
URL = "https://shop.example:8443/hook?token=hush-hush"
PENDING, DEAD = DeliveryState.PENDING, DeliveryState.DEAD
DELIVERED, DROPPED = DeliveryState.DELIVERED, DeliveryState.DROPPED


class Outbox:
    """Webhooks of each state."""

    def __init__(self, redis: Redis) -> None:
        self._jobs, self._deliveries = JobStore(redis, clock=Clock(1000.0)), DeliveryStore(redis)

    def make(self, state: DeliveryState = PENDING) -> str:
        """Make one; returns its id."""
        job = self._jobs.create(make_job(created_at=999.0, webhook_url=URL)).job
        self._jobs.cancel(job.task_id)
        (row,) = self._deliveries.of(job.task_id)
        if state is not PENDING:
            self._deliveries.dispatch(row, 1000.0, seconds=30, limit=99, threads=99)
            claim = self._deliveries.claim(row, 1000.0, seconds=30)
            status = 200 if state is DELIVERED else 410
            attempt = Attempt(1000.0, "refused", status, 7, "what it answered")
            end = RetryDecision(state, 1001.0, "it says so")
            self._deliveries.record_attempt(row, str(claim), attempt, end)
        return row.id

    def state(self, webhook_id: str) -> DeliveryState:
        row = self._deliveries.get(webhook_id)
        assert row is not None
        return row.state


@pytest.fixture
def outbox(redis: Redis) -> Outbox:
    return Outbox(redis)


@pytest.fixture
def command() -> Command:
    return webhooks


def _listed(operator: Operator, *options: str) -> set[str]:
    return {each["webhook_id"] for each in operator.json("list", *options)["webhooks"]}


def test_celery_finds_the_commands_by_their_entry_point() -> None:
    """With a command of the same kind, in a process of its own: see test_jobs.py."""
    (entry,) = entry_points(group="celery.commands", name="webhooks")
    assert entry.load() is webhooks


def test_list_shows_what_waits_and_what_was_given_up(operator: Operator, outbox: Outbox) -> None:
    assert operator.run("list").stdout == "No webhook waits.\n"
    assert operator.run("list", "--dead").stdout == "No webhook was given up.\n"
    waiting, dead, _ = map(outbox.make, (PENDING, DEAD, DELIVERED))
    assert _listed(operator) == {waiting}
    assert _listed(operator, "--dead") == {dead}
    heading, row = operator.run("list").stdout.splitlines()
    assert heading.split() == ["WEBHOOK", "EVENT", "HOST", "ATTEMPTS", "DUE", "REASON"]
    assert row.split()[:4] == [waiting, "removal.canceled", "shop.example:8443", "0"]
    outbox.make()
    assert len(_listed(operator, "--limit", "1")) == 1


def test_show_tells_of_each_attempt(operator: Operator, outbox: Outbox) -> None:
    dead = outbox.make(DEAD)
    shown = operator.json("show", dead)
    assert (shown["state"], shown["reason"]) == ("dead", "it says so")
    assert shown["next_attempt_at"] is None
    assert [each["status"] for each in shown["attempts"]] == [410]
    assert "refused 410 7" in operator.run("show", dead).stdout
    for unknown in (UNKNOWN, f"{dead}:attempts"):
        assert "webhooks list" in operator.errors("show", unknown)
        assert operator.json("replay", unknown, status=1)["unknown"] == [unknown]


def test_replay_sends_again_whatever_came_of_it(operator: Operator, outbox: Outbox) -> None:
    delivered, dead = outbox.make(DELIVERED), outbox.make(DEAD)
    answer = operator.json("replay", delivered, dead, UNKNOWN, status=1)
    assert answer == {"replayed": [delivered, dead], "refused": [], "unknown": [UNKNOWN]}
    assert _listed(operator) == {delivered, dead}
    assert _listed(operator, "--dead") == set()
    assert outbox.state(dead) is PENDING


def test_replay_of_all_that_were_given_up_asks(operator: Operator, outbox: Outbox) -> None:
    dead = {outbox.make(DEAD), outbox.make(DEAD)}
    assert "Send 2 webhooks again?" in operator.errors("replay", "--dead", answers="n\n")
    assert {outbox.state(each) for each in dead} == {DEAD}
    assert set(operator.json("replay", "--dead", "--yes")["replayed"]) == dead
    assert "nothing to do" in operator.errors("replay", "--dead", "--yes", status=0)


def test_drop_asks_and_gives_up(operator: Operator, outbox: Outbox) -> None:
    waiting, dead, delivered = map(outbox.make, (PENDING, DEAD, DELIVERED))
    assert "give --yes" in operator.errors("drop", waiting)
    assert outbox.state(waiting) is PENDING
    operator.run("drop", waiting, answers="y\n")
    assert operator.run("drop", "--dead", "--yes").stdout.split() == ["dropped", dead]
    assert {outbox.state(each) for each in (waiting, dead)} == {DROPPED}
    refused = operator.errors("drop", delivered, UNKNOWN, "--yes")
    rule = "Only pending and dead webhooks can be dropped."
    assert f"{delivered}: delivered. {rule}" in refused
    assert f"{UNKNOWN}: unknown" in refused
    assert operator.json("replay", waiting)["replayed"] == [waiting]


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_a_choice_is_needed_and_only_one(operator: Operator, verb: str) -> None:
    assert "Give ids, or --dead." in operator.errors(verb, status=2)
    operator.run(verb, UNKNOWN, "--dead", status=2)
