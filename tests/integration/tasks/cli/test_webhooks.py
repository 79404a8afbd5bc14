"""The operator's commands `celery -A tasks.app webhooks …`, against a real Valkey."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from redis import Redis

from deploy.local import service
from tasks.app import create_celery
from tasks.cli.webhooks import webhooks
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tasks.webhooks.deliveries import Attempt, Delivery, DeliveryState, DeliveryStore, RetryDecision
from tests.support.clock import Clock
from tests.support.commands import Make, Run
from tests.support.jobs import make_job

UNKNOWN = "msg_rm-20260101-unknown_1"
URL = "https://shop.example:8443/hook?token=hush-hush"


@pytest.fixture
def deliveries(client: Redis) -> DeliveryStore:
    return DeliveryStore(client)


@pytest.fixture
def run(settings: Settings, client: Redis) -> Iterator[Run]:
    assert client.dbsize() == 0
    with create_celery(settings) as app:

        def run(*arguments: str, answers: str = "", status: int = 0) -> Result:
            context = CLIContext(app=app, no_color=True, workdir=None)
            result = CliRunner().invoke(webhooks, arguments, obj=context, input=answers)
            assert result.exit_code == status, (result.output, result.exception)
            assert "hush-hush" not in result.output, "an address may hold a secret"
            return result

        yield run


@pytest.fixture
def make(client: Redis, deliveries: DeliveryStore) -> Make:
    """Makes webhooks of each state; their ids."""
    store = JobStore(client, clock=Clock(1000.0))

    def make(state: DeliveryState = DeliveryState.PENDING) -> str:
        job = store.create(make_job(created_at=999.0, webhook_url=URL)).job
        store.cancel(job.task_id)
        (row,) = deliveries.of(job.task_id)
        if state is not DeliveryState.PENDING:
            _end(deliveries, row, state)
        return row.id

    return make


def _end(deliveries: DeliveryStore, row: Delivery, state: DeliveryState) -> None:
    deliveries.dispatch(row, 1000.0, seconds=30, limit=99)
    claim = deliveries.claim(row, 1000.0, seconds=30)
    status = 200 if state is DeliveryState.DELIVERED else 410
    attempt = Attempt(1000.0, "refused", status, 7, "what it answered")
    deliveries.record_attempt(row, str(claim), attempt, RetryDecision(state, 1001.0, "it says so"))


def json_of(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def _ids(result: Result) -> set[str]:
    return {each["webhook_id"] for each in json_of(result)["webhooks"]}


def _state(deliveries: DeliveryStore, webhook_id: str) -> DeliveryState:
    row = deliveries.get(webhook_id)
    assert row is not None
    return row.state


def test_celery_finds_the_commands_by_their_entry_point(settings: Settings, make: Make) -> None:
    webhook_id = make()
    done = subprocess.run(
        [service.script("celery"), "-A", "tasks.app", "webhooks", "list", "--json"],
        env={**os.environ, "RMBG_REDIS_URL": settings.redis_url.get_secret_value()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [each["webhook_id"] for each in json.loads(done.stdout)["webhooks"]] == [webhook_id]
    assert done.stderr == ""


def test_list_shows_what_waits_and_what_was_given_up(run: Run, make: Make) -> None:
    waiting, dead, _ = make(), make(DeliveryState.DEAD), make(DeliveryState.DELIVERED)
    assert _ids(run("list", "--json")) == {waiting}
    assert _ids(run("list", "--dead", "--json")) == {dead}
    heading, row = run("list").stdout.splitlines()
    assert heading.split() == ["WEBHOOK", "EVENT", "HOST", "ATTEMPTS", "DUE", "REASON"]
    assert row.split()[:4] == [waiting, "removal.canceled", "shop.example:8443", "0"]
    make()
    assert len(json_of(run("list", "--limit", "1", "--json"))["webhooks"]) == 1


def test_list_of_nothing_is_no_error(run: Run) -> None:
    assert run("list").stdout == "No webhook waits.\n"
    assert run("list", "--dead").stdout == "No webhook was given up.\n"


def test_show_tells_of_each_attempt(run: Run, make: Make) -> None:
    dead = make(DeliveryState.DEAD)
    shown = json_of(run("show", dead, "--json"))
    assert (shown["state"], shown["reason"], shown["next_attempt_at"]) == (
        "dead",
        "it says so",
        None,
    )
    assert [each["status"] for each in shown["attempts"]] == [410]
    assert "refused 410 7" in run("show", dead).stdout
    assert "webhooks list" in run("show", UNKNOWN, status=1).stderr


def test_replay_sends_again_whatever_came_of_it(
    run: Run, make: Make, deliveries: DeliveryStore
) -> None:
    delivered, dead = make(DeliveryState.DELIVERED), make(DeliveryState.DEAD)
    answer = json_of(run("replay", delivered, dead, UNKNOWN, "--json", status=1))
    assert answer == {"replayed": [delivered, dead], "refused": [], "unknown": [UNKNOWN]}
    assert _ids(run("list", "--json")) == {delivered, dead}
    assert _ids(run("list", "--dead", "--json")) == set()
    assert _state(deliveries, dead) is DeliveryState.PENDING


def test_replay_of_all_that_were_given_up_asks(
    run: Run, make: Make, deliveries: DeliveryStore
) -> None:
    dead = {make(DeliveryState.DEAD), make(DeliveryState.DEAD)}
    assert "Send 2 webhooks again?" in run("replay", "--dead", answers="n\n", status=1).stderr
    assert {_state(deliveries, each) for each in dead} == {DeliveryState.DEAD}
    assert set(json_of(run("replay", "--dead", "--yes", "--json"))["replayed"]) == dead
    assert "nothing to do" in run("replay", "--dead", "--yes").stderr


def test_drop_asks_and_gives_up(run: Run, make: Make, deliveries: DeliveryStore) -> None:
    waiting, dead, delivered = make(), make(DeliveryState.DEAD), make(DeliveryState.DELIVERED)
    assert "give --yes" in run("drop", waiting, status=1).stderr
    assert _state(deliveries, waiting) is DeliveryState.PENDING
    run("drop", waiting, answers="y\n")
    assert run("drop", "--dead", "--yes").stdout.split() == ["dropped", dead]
    assert {_state(deliveries, each) for each in (waiting, dead)} == {DeliveryState.DROPPED}
    refused = run("drop", delivered, UNKNOWN, "--yes", status=1)
    rule = "Only pending and dead webhooks can be dropped."
    assert f"{delivered}: delivered. {rule}" in refused.stderr
    assert f"{UNKNOWN}: unknown" in refused.stderr
    assert json_of(run("replay", waiting, "--json"))["replayed"] == [waiting]


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_a_choice_is_needed_and_only_one(run: Run, command: str) -> None:
    assert "Give ids, or --dead." in run(command, status=2).stderr
    run(command, UNKNOWN, "--dead", status=2)
