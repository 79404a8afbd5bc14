"""How often one submission asks Redis and waits for the answer.

What is sent at once is one round trip: a command, a script, or a pipeline. So each call of the
method through which all clients of redis-py send is counted, kombu's among them. MONITOR, on a
connection of its own, shows that no command reached the database in another way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.connection import Connection
from werkzeug.test import TestResponse

from api.services import Services
from tasks.redis_client import connect
from tests.support.submissions import PATH, form, png
from tests.support.tenants import Tenant, finish, tenant

SETTINGS = {"auth": "on"}

#: Counts the round trips of a block.
Count = Callable[[], Any]


@dataclass
class Traffic:
    """What one block sent to the database.

    Attributes:
        trips: the beginning of what was sent, for each round trip.
        ports: of the connections that were counted.
        monitored: the commands that Redis was sent by clients, each with its client's port.
    """

    trips: list[str] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)
    monitored: list[tuple[int, str]] = field(default_factory=list)


@pytest.fixture
def shop(client: FlaskClient, services: Services) -> Tenant:
    # A live worker, so that the choice of the queue has something to choose from.
    registry = services.runtime.registry
    registry.record_heartbeat("gpu0@test", queue="gpu.test.0", model=services.settings.model)
    registry.mark_ready("gpu0@test", 90, model=services.settings.model)
    shop = tenant(services, "shop", client, rate_per_minute=1000)
    # Connections are made, and scripts loaded, by the first submission.
    assert _submit(shop, "red", "order-16").status_code == 202
    return shop


@pytest.fixture
def count(services: Services, monkeypatch: pytest.MonkeyPatch) -> Count:
    """Count the round trips of a block."""
    send = Connection.send_packed_command
    url = services.settings.redis_url.get_secret_value()
    database = int(url.rpartition("/")[2])

    @contextmanager
    def count() -> Iterator[Traffic]:
        traffic = Traffic()

        def counted(connection: Any, command: Any, check_health: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 - redis's
            send(connection, command, check_health)
            if connection.db == database:
                text = command if isinstance(command, bytes) else b"".join(command)
                traffic.trips.append(text[:80].decode(errors="replace"))
                traffic.ports.add(connection._sock.getsockname()[1])

        with connect(url) as client, connect(url) as other, other.monitor() as monitor:
            client.ping()  # its connection is made before anything is counted
            list(_commands_until_now(client, monitor, database))
            with monkeypatch.context() as patch:
                patch.setattr(Connection, "send_packed_command", counted)
                yield traffic
            traffic.monitored += _commands_until_now(client, monitor, database)

    return count


def _commands_until_now(client: Redis, monitor: Any, database: int) -> Iterator[tuple[int, str]]:  # noqa: ANN401 - redis publishes no type
    client.echo("that was all")
    while (seen := monitor.next_command())["command"] != "ECHO that was all":
        if seen["db"] == database and seen["client_type"] != "lua":
            yield int(seen["client_port"]), seen["command"]


def _submit(shop: Tenant, color: str, key: str) -> TestResponse:
    sent = form(image=("a.png", png(color)))
    return shop.call("POST", PATH, headers={"Idempotency-Key": key}, **sent)


def _assert_all_was_counted(traffic: Traffic) -> None:
    assert traffic.monitored
    assert {port for port, _ in traffic.monitored} <= traffic.ports
    # Of a pipeline MONITOR shows each command.
    assert len(traffic.monitored) >= len(traffic.trips)


def test_a_submission_with_both_keys_takes_eight_round_trips(shop: Tenant, count: Count) -> None:
    with count() as traffic:
        answer = _submit(shop, "blue", "order-17")
    assert answer.status_code == 202, answer.get_json()
    assert answer.get_json()["data"]["queue"] == "gpu.test.0"
    _assert_all_was_counted(traffic)
    assert len(traffic.trips) <= 8, traffic.trips


def test_a_cache_hit_takes_six_round_trips_and_asks_no_router(
    shop: Tenant, services: Services, count: Count
) -> None:
    first = _submit(shop, "green", "order-18").get_json()["data"]["task_id"]
    finish(services, first)
    with count() as traffic:
        answer = _submit(shop, "green", "order-19")
    assert answer.status_code == 200, answer.get_json()
    assert answer.get_json()["data"]["cached"]
    _assert_all_was_counted(traffic)
    assert len(traffic.trips) <= 6, traffic.trips
    assert not any("choose_queue" in command for _, command in traffic.monitored)
