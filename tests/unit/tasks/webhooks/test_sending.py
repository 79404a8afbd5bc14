"""Signatures, judged by the package that receivers use."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tasks.api_keys import new_webhook_secret
from tasks.errors import SettingsError
from tasks.settings import Settings
from tasks.webhooks.sending import signed_headers

OLD, NEW = new_webhook_secret(), new_webhook_secret()
BODY = json.dumps({"type": "removal.succeeded", "data": {"name": "Grüße"}}).encode()


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def signed(*secrets: str, timestamp: int | None = None, body: bytes = BODY) -> dict[str, str]:
    at = now() if timestamp is None else timestamp
    return dict(signed_headers(secrets, webhook_id="msg_1", timestamp=at, body=body))


def test_a_receiver_verifies_it() -> None:
    assert Webhook(NEW).verify(BODY, signed(NEW)) == json.loads(BODY)


@given(st.text())
def test_any_body_verifies(text: str) -> None:
    body = json.dumps({"text": text}).encode()
    assert Webhook(NEW).verify(body, signed(NEW, body=body)) == {"text": text}


@pytest.mark.parametrize("secret", [OLD, NEW], ids=["old", "new"])
def test_while_a_secret_is_replaced_either_verifies(secret: str) -> None:
    assert Webhook(secret).verify(BODY, signed(NEW, OLD))


def test_a_changed_byte_fails() -> None:
    changed = BODY.replace(b"succeeded", b"succeedeD")
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(changed, signed(NEW))


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp"])
def test_a_changed_header_fails(header: str) -> None:
    forged = signed(NEW)
    forged[header] = str(now() + 1) if header == "webhook-timestamp" else "msg_2"
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY, forged)


def test_an_old_timestamp_fails() -> None:
    hour_ago = int((datetime.now(UTC) - timedelta(hours=1)).timestamp())
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY, signed(NEW, timestamp=hour_ago))


def test_another_secret_fails() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(BODY, signed(NEW))


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "plain-text-password",
        f"whsec_{base64.b64encode(b'x' * 23).decode()}",
        f"whsec_{base64.b64encode(b'x' * 65).decode()}",
        base64.b64encode(b"x" * 32).decode(),
        "whsec_not/base64!" * 3,
    ],
)
def test_what_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(SettingsError, match="whsec_ and base64") as caught:
        Settings.load(webhook_secret=secret)
    assert len(secret) < 7 or secret not in str(caught.value)


@pytest.mark.parametrize("size", [24, 64])
def test_the_sizes_of_the_standard_are_taken(size: int) -> None:
    secret = f"whsec_{base64.b64encode(b'x' * size).decode()}"
    assert Settings.load(webhook_secret=secret).webhook_secret
    assert Webhook(secret).verify(BODY, signed(secret))


def test_a_faulty_secret_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_WEBHOOK_SECRET", "hunter2")
    with pytest.raises(SettingsError, match="RMBG_WEBHOOK_SECRET") as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)
