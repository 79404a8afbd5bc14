"""How often one submission asks Redis and the object store, and waits for the answer.

What is sent to Redis at once is one round trip: a command, a script, or a pipeline. These counts do
not depend on the clock; who raises one knows what each request pays.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.capacity import Capacity
from tasks.redis_client import RedisClock
from tests.support.api import Api
from tests.support.clock import Clock
from tests.support.counting import REDIS, STORE, SYNCS, counted_calls
from tests.support.submissions import data_of, png, task_id_of

SETTINGS = {"auth": "on"}


@pytest.fixture
def shop(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    # Redis's clock and its space are asked for every few seconds, and a heartbeat ends with them.
    monkeypatch.setattr(RedisClock, "__call__", Clock())
    capacity = Capacity(api.runtime.redis, api.runtime.settings.data_dir, clock=Clock())
    # A live worker, so that the choice of the queue has something to choose from.
    registry, model = api.runtime.registry, api.services.settings.model
    registry.record_heartbeat("gpu0@test", queue="gpu.test.0", model=model)
    registry.mark_ready("gpu0@test", 90, model=model)
    store = replace(api.objects, sync_dir=tmp_path)
    synced = api.with_parts(object_store=store, capacity=capacity)
    return synced.tenant("shop", rate_per_minute=1000)


@pytest.fixture
def counts(shop: Api, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    # Connections are made, and scripts loaded, by the first submission.
    shop.finish(shop.submit(key="order-16", cache="true"))
    return counted_calls(monkeypatch)


def test_a_submission_with_both_keys_takes_nine_round_trips(
    shop: Api, counts: Counter[str]
) -> None:
    answer = shop.send(png("blue"), key="order-17", cache="true")
    assert data_of(answer)["queue"] == "gpu.test.0"
    assert 0 < counts[REDIS] <= 9
    assert counts[STORE] <= 2  # the original, its manifest
    assert counts[SYNCS] <= 1  # with the manifest, which is stored last
    counts.clear()
    assert shop.data(f"/api/v1/tasks/{task_id_of(answer)}")["status"] == "queued"
    assert counts[REDIS] <= 2  # the key, and the record
    assert not counts[STORE]


def test_a_cache_hit_takes_seven_round_trips_and_asks_no_router(
    shop: Api, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.runtime, "router", None)
    answer = shop.send(key="order-18", cache="true")
    assert data_of(answer, 200)["cached"]
    assert 0 < counts[REDIS] <= 7
