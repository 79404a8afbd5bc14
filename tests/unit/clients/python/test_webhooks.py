"""The Python client verifies what the service signs, and nothing else."""

import base64
import json
from collections.abc import Iterable

import pytest

from rmbg_client import InvalidWebhookError, verify_webhook
from tasks.webhooks.sending import signed_headers
from tests.unit.clients.python.test_rmbg_client import TASK

# The same in every test process: they are in the tests' names.
OLD, NEW, OTHER = (
    f"whsec_{base64.b64encode(bytes(32) + name).decode()}" for name in (b"old", b"new", b"x")
)
NOW = 1_800_000_000
CONTENT = {"type": "removal.succeeded", "timestamp": "2026-11-27T10:00:00+00:00", "data": TASK}
BODY = json.dumps(CONTENT).encode()


def _headers(*secrets: str, age: int = 0, body: bytes = BODY) -> dict[str, str]:
    return signed_headers(secrets, webhook_id="msg_1", timestamp=NOW - age, body=body)


@pytest.mark.parametrize("secrets", [NEW, OLD, (OTHER, OLD), [NEW]])
def test_an_event_of_the_service_is_taken(secrets: str | Iterable[str]) -> None:
    headers = {name.title(): value for name, value in _headers(NEW, OLD).items()}
    event = verify_webhook(headers, BODY, secrets, now=lambda: NOW + 200)
    assert (event.id, event.type, event.batch) == ("msg_1", "removal.succeeded", None)
    assert event.task is not None
    assert event.task.task_id == "rm-1"


@pytest.mark.parametrize(
    ("headers", "body", "secrets"),
    [
        (_headers(NEW), BODY.replace(b"rm-1", b"rm-2"), NEW),
        (_headers(NEW), BODY, OTHER),
        (_headers(NEW), BODY, ()),
        (_headers(NEW, age=301), BODY, NEW),
        (_headers(NEW, age=-301), BODY, NEW),
        ({**_headers(NEW), "webhook-id": "msg_2"}, BODY, NEW),
        ({**_headers(NEW), "webhook-timestamp": "²"}, BODY, NEW),
        ({**_headers(NEW), "webhook-signature": "v1,é"}, BODY, NEW),
        ({}, BODY, NEW),
        (_headers(NEW, body=b"[]"), b"[]", NEW),
    ],
)
def test_anything_else_is_refused(
    headers: dict[str, str], body: bytes, secrets: str | Iterable[str]
) -> None:
    with pytest.raises(InvalidWebhookError):
        verify_webhook(headers, body, secrets, now=lambda: NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "secret", "whsec_?"])
def test_a_secret_that_is_none_is_no_webhooks_fault(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        verify_webhook(_headers(NEW), BODY, secret, now=lambda: NOW)
