"""How often one submission asks Redis and waits for the answer.

What is sent at once is one round trip: a command, a script, or a pipeline. So each call of the
method through which all clients of redis-py send is counted, kombu's among them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from redis.connection import Connection
from werkzeug.test import TestResponse

from tests.support.api import Api
from tests.support.submissions import PATH, form, png

SETTINGS = {"auth": "on"}

#: Gives what a block sent to Redis, a text for each round trip.
Count = Callable[[], AbstractContextManager[list[str]]]


@pytest.fixture
def shop(api: Api) -> Api:
    # A live worker, so that the choice of the queue has something to choose from.
    registry, model = api.runtime.registry, api.services.settings.model
    registry.record_heartbeat("gpu0@test", queue="gpu.test.0", model=model)
    registry.mark_ready("gpu0@test", 90, model=model)
    shop = api.tenant("shop", rate_per_minute=1000)
    # Connections are made, and scripts loaded, by the first submission.
    assert _submit(shop, "red", "order-16").status_code == 202
    return shop


@pytest.fixture
def count(api: Api, monkeypatch: pytest.MonkeyPatch) -> Count:
    send = Connection.send_packed_command
    database = api.redis.connection_pool.connection_kwargs["db"]

    @contextmanager
    def count() -> Iterator[list[str]]:
        trips: list[str] = []

        def counted(connection: Any, command: Any, check_health: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 - redis's
            send(connection, command, check_health)
            if connection.db == database:
                text = command if isinstance(command, bytes) else b"".join(command)
                trips.append(text.decode(errors="replace"))

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "send_packed_command", counted)
            yield trips

    return count


def _submit(shop: Api, color: str, key: str) -> TestResponse:
    sent = form(image=("a.png", png(color)))
    return shop.post(PATH, headers={"Idempotency-Key": key}, **sent)


def test_a_submission_with_both_keys_takes_nine_round_trips(shop: Api, count: Count) -> None:
    with count() as trips:
        answer = _submit(shop, "blue", "order-17")
    assert answer.status_code == 202, answer.get_json()
    assert answer.get_json()["data"]["queue"] == "gpu.test.0"
    assert any("choose_queue" in trip for trip in trips)
    assert len(trips) <= 9, trips


def test_a_cache_hit_takes_seven_round_trips_and_asks_no_router(shop: Api, count: Count) -> None:
    shop.finish(_submit(shop, "green", "order-18").get_json()["data"]["task_id"])
    with count() as trips:
        answer = _submit(shop, "green", "order-19")
    assert answer.status_code == 200, answer.get_json()
    assert answer.get_json()["data"]["cached"]
    assert 0 < len(trips) <= 7, trips
    assert not any("choose_queue" in trip for trip in trips)
