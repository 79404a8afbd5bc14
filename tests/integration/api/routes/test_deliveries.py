"""Webhooks as callers ask for them, look after them and send them again."""

import io
from pathlib import Path

import pytest

from api.services import Services
from tasks.webhooks.deliveries import DeliveryState
from tests.support.tenants import Tenant, finish, tenant

PUBLIC = "https://93.184.216.34/hook"


@pytest.fixture(scope="module")
def shop(services: Services) -> Tenant:
    return tenant(services, "shop")


@pytest.fixture(scope="module")
def studio(services: Services) -> Tenant:
    return tenant(services, "studio")


def ask(who: Tenant, coffee: Path, **fields: str) -> tuple[int, dict[str, object]]:
    data = {**fields, "image": (io.BytesIO(coffee.read_bytes()), "a.jpg"), "cache": "false"}
    answer = who.call("POST", "/api/v1/remove-bg", data=data)
    return answer.status_code, answer.get_json()


def task(who: Tenant, coffee: Path, **fields: str) -> str:
    status, body = ask(who, coffee, **fields)
    assert status == 202, body
    return str(body["data"]["task_id"])  # type: ignore[index]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://10.1.2.3:81/"]
)
def test_a_receiver_inside_is_refused_at_once(shop: Tenant, coffee: Path, url: str) -> None:
    status, body = ask(shop, coffee, webhook_url=url)
    assert status == 422
    assert "RMBG_URL_ALLOW" in body["error"]["fields"]["webhook_url"]  # type: ignore[index]


@pytest.mark.parametrize("events", ["removal.done", "removal.failed,", "batch.completed"])
def test_an_unknown_event_is_refused(shop: Tenant, coffee: Path, events: str) -> None:
    status, body = ask(shop, coffee, webhook_url=PUBLIC, webhook_events=events)
    assert status == 422
    assert "removal.succeeded" in body["error"]["fields"]["webhook_events"]  # type: ignore[index]


def test_the_tasks_webhooks_are_listed_and_sent_again(
    shop: Tenant, services: Services, coffee: Path
) -> None:
    task_id = task(shop, coffee, webhook_url=PUBLIC, webhook_events="removal.succeeded")
    path = f"/api/v1/tasks/{task_id}/deliveries"
    assert shop.call("GET", path).get_json()["data"] == {"deliveries": []}
    finish(services, task_id)
    (shown,) = shop.call("GET", path).get_json()["data"]["deliveries"]
    assert (shown["number"], shown["type"], shown["state"]) == (1, "removal.succeeded", "pending")
    assert shown["url"] == PUBLIC
    assert shown["next_attempt_at"]
    assert services.runtime.deliveries.drop(shown["webhook_id"])
    again = shop.call("POST", f"{path}/1/replay")
    assert again.status_code == 202
    assert again.get_json()["data"]["webhook_id"] == shown["webhook_id"]
    (row,) = services.runtime.deliveries.of(task_id)
    assert row.state is DeliveryState.PENDING


def test_anothers_webhooks_are_not_there(
    shop: Tenant, studio: Tenant, services: Services, coffee: Path
) -> None:
    task_id = task(shop, coffee, webhook_url=PUBLIC)
    finish(services, task_id)
    path = f"/api/v1/tasks/{task_id}/deliveries"
    for method, each in (("GET", path), ("POST", f"{path}/1/replay")):
        answer = studio.call(method, each)
        assert (answer.status_code, answer.get_json()["error"]["type"]) == (404, "task_not_found")
    missing = shop.call("POST", f"{path}/2/replay")
    assert missing.get_json()["error"]["type"] == "delivery_not_found"


def test_an_owners_own_receiver_is_told_unless_a_task_names_another(
    services: Services, coffee: Path
) -> None:
    named = tenant(services, "named", webhook_url="https://93.184.216.34/own")
    own, other = task(named, coffee), task(named, coffee, webhook_url=PUBLIC)
    urls = [services.runtime.job_store.get(each).webhook_url for each in (own, other)]  # type: ignore[union-attr]
    assert urls == ["https://93.184.216.34/own", PUBLIC]


def test_a_batch_tells_once(shop: Tenant, services: Services, coffee: Path) -> None:
    picture = coffee.read_bytes()
    data = {
        "images": [(io.BytesIO(picture), "a.jpg"), (io.BytesIO(picture), "b.jpg")],
        "webhook_url": PUBLIC,
        "cache": "false",
    }
    batch = shop.call("POST", "/api/v1/remove-bg/batch", data=data).get_json()["data"]
    ids = [item["task_id"] for item in batch["items"]]
    for task_id in ids:
        assert services.runtime.deliveries.of(batch["batch_id"]) == []
        finish(services, task_id)
    (row,) = services.runtime.deliveries.of(batch["batch_id"])
    assert (row.event, row.kind, row.url) == ("batch.completed", "batch", PUBLIC)
    assert all(services.runtime.deliveries.of(task_id) == [] for task_id in ids), (
        "the batch's, not theirs"
    )
