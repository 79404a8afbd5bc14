"""Webhooks through the whole running service, to a real receiver."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery.events.state import State
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tasks.app import create_celery
from tasks.jobs.routing import DELIVER_TASK
from tests.support.receivers import answering, receiver
from tests.support.service import RunningService, api_here, eventually, settings_of


@pytest.fixture
def seen(service: RunningService) -> Iterator[State]:
    """What Celery's events tell Flower, and whoever listens."""
    state = State()
    with create_celery(settings_of(service.env)) as app, app.connection_for_read() as connection:
        listener = app.events.Receiver(connection, handlers={"*": state.event}, app=app)
        thread = threading.Thread(target=listener.capture, daemon=True)
        thread.start()
        # What a worker sends before the listener is there, no one hears.
        eventually("a worker's heartbeat", lambda: state.event_count)
        yield state
        listener.should_stop = True
        thread.join(10)


def test_celerys_events_show_a_delivery_by_its_id(
    service: RunningService, seen: State, coffee: Path
) -> None:
    with receiver(answering(500, 200)) as got:
        service.client.submit(coffee, {"webhook_url": got.url})

        def deliveries() -> list[Any]:
            named = [task for task in seen.tasks.values() if task.name == DELIVER_TASK]
            own = [task for task in named if task.uuid.partition(".")[0] in got.ids]
            return sorted(own, key=lambda task: len(task.uuid))

        eventually(
            "both attempts",
            lambda: [task.result for task in deliveries()] == ["'refused'", "'delivered'"],
        )
        first, second = deliveries()
    assert (first.uuid, second.uuid) == (got.ids[0], f"{got.ids[0]}.2")
    assert got.url not in f"{first.args}{first.kwargs}", "a URL may hold a secret"


def test_it_says_what_the_api_says_and_its_address_opens_the_result(
    service: RunningService, coffee: Path
) -> None:
    with receiver(answering(200)) as got:
        fields = {"webhook_url": f"{got.url}?token=hush-hush", "metadata": '{"order": 17}'}
        task_id = service.client.submit(coffee, fields)
        assert got.wait_for(1, 60), service.logged()
    secret = service.env["RMBG_WEBHOOK_SECRET"]
    event = Webhook(secret).verify(got.bodies[0], got.headers[0])
    assert event["type"] == "removal.succeeded"
    assert got.headers[0]["content-type"] == "application/json"
    assert len(got.bodies[0]) < 20_000
    said = event["data"]
    shown = service.client.request("GET", f"/api/v1/tasks/{task_id}")
    assert said["metadata"] == {"order": 17}
    assert service.client.download(said["result_url"]).startswith(b"\x89PNG")
    for name in ("original_url", "result_url"):
        # Signed again each time; they lead to the same object.
        assert urlsplit(said.pop(name)).path == urlsplit(shown.pop(name)).path
    assert said.pop("urls_expire_at") <= shown.pop("urls_expire_at")
    assert said == shown


def test_a_keys_webhooks_are_signed_with_its_secret_and_for_a_day_with_the_old_one(
    service: RunningService,
) -> None:
    api = api_here(service.env, auth="on")
    keys = api.runtime.api_keys
    with receiver(answering(200)) as got:
        shop = api.tenant("signed-shop", webhook_url=got.url)
        secrets = [getattr(keys.get(shop.owner), "webhook_secret", "")]
        keys.rotate_secret("signed-shop")
        secrets.append(getattr(keys.get(shop.owner), "webhook_secret", ""))
        shop.submit()
        assert got.wait_for(1, 60), service.logged()
    assert len({*secrets}) == 2
    for secret in secrets:
        Webhook(secret).verify(got.bodies[0], got.headers[0])
    with pytest.raises(WebhookVerificationError):
        Webhook(service.env["RMBG_WEBHOOK_SECRET"]).verify(got.bodies[0], got.headers[0])
    for hidden in (*secrets, shop.key):
        assert hidden not in service.logged()
