"""Webhooks through the whole running service, to a real receiver."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery.events.state import State
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from deploy.client import ServiceClient
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from tasks.api_keys import new_webhook_secret
from tasks.app import create_celery
from tasks.jobs.routing import DELIVER_TASK
from tasks.object_store import ObjectStore
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.webhooks.sending import signed_headers
from tests.support.paths import DATA
from tests.support.receivers import Receiver, answering, receiver
from tests.support.servers import Servers, running
from tests.support.service import RunningService, api_service, running_service

SECRET = new_webhook_secret()
HOST = "webhooks"


@pytest.fixture(scope="module")
def signing_service(
    servers: Servers, service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A service that signs, with a database and a bucket of its own."""
    url = servers.new_database()
    env = {
        **service_environment,
        "RMBG_REDIS_URL": url,
        "RMBG_S3_BUCKET": f"{servers.bucket}-webhooks",
        "RMBG_HOST": HOST,
        "RMBG_WEBHOOK_SECRET": SECRET,
        "RMBG_URL_ALLOW": "127.0.0.1",
    }
    settings = Settings.load(
        s3_endpoint=servers.s3.endpoint,
        s3_access_key=servers.s3.access_key,
        s3_secret_key=servers.s3.secret_key,
        s3_bucket=f"{servers.bucket}-webhooks",
    )
    ObjectStore.from_settings(settings).ensure_bucket()
    connect(url).flushdb()
    with running_service(env, tmp_path_factory.mktemp("webhooks")) as service:
        yield service
    connect(url).flushdb()


@dataclass(frozen=True)
class NotifiedTask:
    """A task of whose end a receiver was notified."""

    service: RunningService
    task_id: str
    got: Receiver

    @property
    def webhook_id(self) -> str:
        return self.got.ids[0]

    def data(self) -> dict[str, Any]:
        return self.service.client.request("GET", f"/api/v1/tasks/{self.task_id}")

    def deliveries(self) -> list[dict[str, Any]]:
        path = f"/api/v1/tasks/{self.task_id}/deliveries"
        return list(self.service.client.request("GET", path)["deliveries"])


@pytest.fixture(scope="module")
def notified(signing_service: RunningService) -> Iterator[NotifiedTask]:
    photo = DATA / "coffee.jpg"
    with receiver(answering(200)) as got:
        fields = {"webhook_url": f"{got.url}?token=hush-hush", "metadata": '{"order": 17}'}
        task_id = signing_service.client.submit(photo, fields)
        assert got.wait_for(1, 60), _logs(signing_service)
        yield NotifiedTask(signing_service, task_id, got)


def _logs(service: RunningService) -> str:
    return "\n".join(path.read_text() for path in sorted(service.logs.glob("*.log")))


def _run(service: RunningService, program: str, *arguments: str) -> str:
    command = [local_service.script(program), *arguments]
    env = {**os.environ, **service.env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def seen(signing_service: RunningService) -> Iterator[State]:
    """What Celery's events tell Flower, and whoever listens."""
    state = State()
    with (
        create_celery(Settings.load(redis_url=signing_service.env["RMBG_REDIS_URL"])) as app,
        app.connection_for_read() as connection,
    ):
        listener = app.events.Receiver(connection, handlers={"*": state.event}, app=app)
        thread = threading.Thread(target=listener.capture, daemon=True)
        thread.start()
        yield state
        listener.should_stop = True
        thread.join(10)


def test_celerys_events_show_a_delivery_by_its_id(
    signing_service: RunningService, seen: State, coffee: Path
) -> None:
    with receiver(answering(500, 200)) as got:
        signing_service.client.submit(coffee, {"webhook_url": got.url})
        end = time.monotonic() + 60
        while [task.result for task in _deliveries(seen)] != ["'refused'", "'delivered'"]:
            assert time.monotonic() < end, f"{_deliveries(seen)}\n{_logs(signing_service)}"
            time.sleep(0.05)
    first, second = _deliveries(seen)
    assert (first.uuid, second.uuid) == (got.ids[0], f"{got.ids[0]}.2")
    assert got.url not in f"{first.args}{first.kwargs}", "a URL may hold a secret"


def _deliveries(seen: State) -> list[Any]:
    found = [task for task in seen.tasks.values() if task.name == DELIVER_TASK]
    return sorted(found, key=lambda task: len(task.uuid))


def test_what_arrives_can_be_verified(notified: NotifiedTask) -> None:
    event = Webhook(SECRET).verify(notified.got.bodies[0], notified.got.headers[0])
    assert event["type"] == "removal.succeeded"
    assert event["data"]["task_id"] == notified.task_id
    assert notified.got.headers[0]["content-type"] == "application/json"
    assert len(notified.got.bodies[0]) < 20_000


def test_what_was_tampered_with_cannot(notified: NotifiedTask) -> None:
    body, sent = notified.got.bodies[0], notified.got.headers[0]
    middle = len(body) // 2
    changed = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    old = signed_headers(
        [SECRET], webhook_id=notified.webhook_id, timestamp=int(time.time()) - 600, body=body
    )
    for secret, given, over in (
        (SECRET, sent, changed),
        (SECRET, dict(old), body),
        (new_webhook_secret(), sent, body),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(over, given)


def test_it_says_what_the_api_says(notified: NotifiedTask) -> None:
    said, shown = json.loads(notified.got.bodies[0])["data"], notified.data()
    assert said["metadata"] == {"order": 17}
    for name in ("original_url", "result_url"):
        # Signed again each time; they lead to the same object.
        assert urlsplit(said.pop(name)).path == urlsplit(shown.pop(name)).path
    assert said == shown


def test_the_address_in_it_opens_the_result(notified: NotifiedTask) -> None:
    address = json.loads(notified.got.bodies[0])["data"]["result_url"]
    assert notified.service.client.download(address).startswith(b"\x89PNG")


def _wait_until_delivered(notified: NotifiedTask, attempts: int) -> dict[str, Any]:
    """The receiver has it a moment before the record says so."""
    end = time.monotonic() + 30
    while True:
        (row,) = notified.deliveries()
        if (row["state"], len(row["attempts"])) == ("delivered", attempts):
            return row
        assert time.monotonic() < end, row
        time.sleep(0.02)


def test_it_is_listed_and_arrives_again_under_its_id(notified: NotifiedTask) -> None:
    before = len(notified.got.bodies)
    row = _wait_until_delivered(notified, before)
    assert (row["webhook_id"], row["type"]) == (notified.webhook_id, "removal.succeeded")
    assert [each["status"] for each in row["attempts"]] == [200] * before
    path = f"/api/v1/tasks/{notified.task_id}/deliveries/1/replay"
    notified.service.client.request("POST", path)
    assert notified.got.wait_for(before + 1), _logs(notified.service)
    _wait_until_delivered(notified, before + 1)
    _run(notified.service, "celery", "-A", "tasks.app", "webhooks", "replay", notified.webhook_id)
    assert notified.got.wait_for(before + 2), _logs(notified.service)
    _wait_until_delivered(notified, before + 2)
    assert set(notified.got.ids) == {notified.webhook_id}
    for body, sent in zip(notified.got.bodies, notified.got.headers, strict=True):
        Webhook(SECRET).verify(body, sent)


def test_a_scrape_counts_it(notified: NotifiedTask) -> None:
    _wait_until_delivered(notified, len(notified.got.bodies))
    text = notified.service.client.download(notified.service.metrics["api"]).decode()
    assert 'rmbg_webhook_attempts_total{outcome="delivered"}' in text
    assert "rmbg_webhook_pending" in text


@pytest.fixture
def keyed(signing_service: RunningService) -> Iterator[str]:
    """The address of an API beside it that asks for keys."""
    with reserved_ports() as (port, *_):
        env = {**signing_service.env, "RMBG_AUTH": "on"}
        with running(api_service(port, env), signing_service.logs / "keyed.log"):
            yield f"http://127.0.0.1:{port}"


def test_a_keys_webhooks_are_signed_with_its_secret_and_for_a_day_with_the_old_one(
    signing_service: RunningService, keyed: str, coffee: Path
) -> None:
    with receiver(answering(200)) as got:
        made = _run(
            signing_service, "rmbg", "keys", "add", "shop", "--webhook-url", got.url, "--json"
        )
        key, first = json.loads(made)["key"], json.loads(made)["webhook_secret"]
        with ServiceClient(keyed, api_key=key) as client:
            task_id = client.submit(coffee, {})
            assert got.wait_for(1, 60), _logs(signing_service)
            Webhook(first).verify(got.bodies[0], got.headers[0])
            rotated = _run(signing_service, "rmbg", "keys", "rotate-secret", "shop", "--json")
            second = json.loads(rotated)["webhook_secret"]
            client.request("POST", f"/api/v1/tasks/{task_id}/deliveries/1/replay")
            assert got.wait_for(2), _logs(signing_service)
    assert second != first
    assert len(got.headers[1]["webhook-signature"].split(" ")) == 2
    for secret in (first, second):
        Webhook(secret).verify(got.bodies[1], got.headers[1])
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(got.bodies[1], got.headers[1])
    for hidden in (first, second, key):
        assert hidden not in _logs(signing_service)


def test_no_secret_and_no_signed_address_is_in_any_log(notified: NotifiedTask) -> None:
    text = _logs(notified.service)
    assert "webhook.attempted" in text
    for hidden in (
        SECRET,
        "hush-hush",
        "X-Amz-Signature",
        *(each["webhook-signature"] for each in notified.got.headers),
    ):
        assert hidden not in text
