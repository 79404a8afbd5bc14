"""Webhooks as callers ask for them, look after them and send them again."""

import pytest

from api.rate_limits import REPLAYS, Rate, take_tokens
from tasks.webhooks.deliveries import DeliveryState
from tests.support.api import Api
from tests.support.submissions import PICTURE, data_of, form, refusal, refused_fields

SETTINGS = {"auth": "on"}

PUBLIC = "https://93.184.216.34/hook"


def test_a_receiver_inside_is_refused_at_once(shop: Api) -> None:
    answer = shop.send(webhook_url="http://10.1.2.3:81/")
    assert refused_fields(answer) == (422, "invalid_parameter", {"webhook_url"})
    assert "RMBG_URL_ALLOW" in answer.get_json()["error"]["fields"]["webhook_url"]


def test_the_tasks_webhooks_are_listed_and_sent_again(shop: Api) -> None:
    task_id = shop.submit(webhook_url=PUBLIC, webhook_events="removal.succeeded")
    path = f"/api/v1/tasks/{task_id}/deliveries"
    assert shop.data(path) == {"deliveries": []}
    shop.finish(task_id)
    (shown,) = shop.data(path)["deliveries"]
    assert (shown["number"], shown["type"], shown["state"]) == (1, "removal.succeeded", "pending")
    assert shown["url"] == PUBLIC
    assert shown["next_attempt_at"]
    assert shop.runtime.deliveries.drop(shown["webhook_id"])
    again = data_of(shop.post(f"{path}/1/replay"))
    assert (again["webhook_id"], again["state"]) == (shown["webhook_id"], "pending")
    (row,) = shop.runtime.deliveries.of(task_id)
    assert row.state is DeliveryState.PENDING
    for number in ("0", "2", "9" * 4300):
        assert shop.error("POST", f"{path}/{number}/replay") == (404, "delivery_not_found")


@pytest.mark.parametrize("operator", [False, True], ids=["by its owner", "by an operator"])
def test_webhooks_are_sent_again_at_a_rate_of_their_own(api: Api, *, operator: bool) -> None:
    shop = api.tenant("shop", rate_per_minute=5, webhook_url=PUBLIC, operator=operator)
    task_id = shop.submit()
    shop.finish(task_id)
    (row,) = shop.runtime.deliveries.of(task_id)
    assert row.url == PUBLIC, "an owner's own receiver is called unless a task names another"
    # With a debt that the time until the request does not refill.
    take_tokens(shop.redis, row.owner, Rate(60), cost=360, policy=REPLAYS)
    path = f"ops/webhooks/{row.id}" if operator else f"tasks/{task_id}/deliveries/1"
    refused = shop.post(f"/api/v1/{path}/replay")
    assert refusal(refused) == (429, "rate_limited")
    assert refused.headers["RateLimit-Policy"] == '"replays";q=60;w=60'
    assert 1 <= int(refused.headers["Retry-After"]) <= 301
    named = shop.submit(webhook_url=f"{PUBLIC}/2")  # pictures have a bucket of their own
    assert shop.job(named).webhook_url == f"{PUBLIC}/2"


def test_a_batch_is_reported_once(shop: Api) -> None:
    images = [("images", (name, PICTURE)) for name in ("a.png", "b.png")]
    sent = form(*images, webhook_url=PUBLIC, cache="false")
    batch = data_of(shop.post("/api/v1/remove-bg/batch", **sent))
    ids = [item["task_id"] for item in batch["items"]]
    for task_id in ids:
        assert shop.runtime.deliveries.of(batch["batch_id"]) == []
        shop.finish(task_id)
    (row,) = shop.runtime.deliveries.of(batch["batch_id"])
    assert (row.event, row.kind, row.url) == ("batch.completed", "batch", PUBLIC)
    # The batch has it, not its tasks.
    assert all(shop.runtime.deliveries.of(task_id) == [] for task_id in ids)
