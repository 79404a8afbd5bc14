"""The operator's commands `celery -A tasks.app webhooks …`, against a real Valkey."""

from collections.abc import Callable

import pytest
from click import Command
from redis import Redis

from tasks.cli.webhooks import webhooks
from tasks.jobs.store import JobStore
from tasks.webhooks.deliveries import DeliveryState, DeliveryStore
from tests.support.clock import Clock
from tests.support.commands import Operator
from tests.support.jobs import make_job
from tests.support.outbox import attempted

UNKNOWN = "msg_rm-20260101-unknown_1"
URL = "https://shop.example:8443/hook?token=hush-hush"
Make = Callable[[DeliveryState], str]
PENDING, DEAD, DELIVERED = DeliveryState.PENDING, DeliveryState.DEAD, DeliveryState.DELIVERED


@pytest.fixture
def command() -> Command:
    return webhooks


@pytest.fixture
def make(redis: Redis) -> Make:
    """Makes a webhook of a state; returns its id."""
    jobs, deliveries = JobStore(redis, clock=Clock(1000.0)), DeliveryStore(redis)

    def make(state: DeliveryState) -> str:
        job = jobs.create(make_job(created_at=999.0, webhook_url=URL)).job
        jobs.cancel(job.task_id)
        (row,) = deliveries.of(job.task_id)
        if state is not PENDING:
            attempted(deliveries, row, state, now=1000.0, status=410, reason="it says so")
        return row.id

    return make


def _listed(operator: Operator, *options: str) -> set[str]:
    return {each["webhook_id"] for each in operator.json("list", *options)["webhooks"]}


def _state(operator: Operator, webhook_id: str) -> str:
    return str(operator.json("show", webhook_id)["state"])


def test_list_shows_what_waits_and_what_was_given_up(operator: Operator, make: Make) -> None:
    assert operator.run("list").stdout == "No webhook waits.\n"
    assert operator.run("list", "--dead").stdout == "No webhook was given up.\n"
    waiting, dead, _ = map(make, (PENDING, DEAD, DELIVERED))
    assert _listed(operator) == {waiting}
    assert _listed(operator, "--dead") == {dead}
    heading, row = operator.run("list").stdout.splitlines()
    assert heading.split() == ["WEBHOOK", "EVENT", "HOST", "ATTEMPTS", "DUE", "REASON"]
    assert row.split()[:4] == [waiting, "removal.canceled", "shop.example:8443", "0"]
    make(PENDING)
    assert len(_listed(operator, "--limit", "1")) == 1


def test_show_tells_of_each_attempt(operator: Operator, make: Make) -> None:
    dead = make(DEAD)
    shown = operator.json("show", dead)
    assert (shown["state"], shown["reason"]) == ("dead", "it says so")
    assert shown["next_attempt_at"] is None
    assert [each["status"] for each in shown["attempts"]] == [410]
    assert "refused 410 7" in operator.run("show", dead).stdout
    for unknown in (UNKNOWN, f"{dead}:attempts"):
        assert "webhooks list" in operator.errors("show", unknown)
        assert operator.json("replay", unknown, status=1)["unknown"] == [unknown]


def test_replay_sends_again_and_asks_for_all(operator: Operator, make: Make) -> None:
    delivered, dead, dropped = map(make, (DELIVERED, DEAD, DeliveryState.DROPPED))
    chosen = [delivered, dead, dropped]
    answer = operator.json("replay", *chosen, UNKNOWN, status=1)
    assert answer == {"replayed": chosen, "refused": [], "unknown": [UNKNOWN]}
    assert _listed(operator) == set(chosen)
    more = {make(DEAD), make(DEAD)}
    assert "Send 2 webhooks again?" in operator.errors("replay", "--dead", answers="n\n")
    assert _listed(operator, "--dead") == more
    assert set(operator.json("replay", "--dead", "--yes")["replayed"]) == more
    assert "nothing to do" in operator.errors("replay", "--dead", "--yes", status=0)


def test_drop_asks_and_gives_up_what_waits_or_is_dead(operator: Operator, make: Make) -> None:
    waiting, dead, delivered = map(make, (PENDING, DEAD, DELIVERED))
    assert "give --yes" in operator.errors("drop", waiting)
    assert _state(operator, waiting) == "pending"
    operator.run("drop", waiting, answers="y\n")
    assert operator.run("drop", "--dead", "--yes").stdout.split() == ["dropped", dead]
    assert [_state(operator, each) for each in (waiting, dead)] == ["dropped"] * 2
    refused = operator.errors("drop", delivered, UNKNOWN, "--yes")
    assert f"{delivered}: delivered. Only pending and dead webhooks" in refused
    assert f"{UNKNOWN}: unknown" in refused


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_a_choice_is_needed_and_only_one(operator: Operator, verb: str) -> None:
    assert "Give ids, or --dead." in operator.errors(verb, status=2)
    operator.run(verb, UNKNOWN, "--dead", status=2)
