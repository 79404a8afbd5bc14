"""Signatures, judged by the package that receivers use."""

import base64
import json
import time

import pytest
from standardwebhooks.webhooks import Webhook

from tasks.api_keys import new_webhook_secret
from tasks.errors import SettingsError
from tasks.settings import Settings
from tasks.webhooks.sending import signed_headers

OLD, NEW = new_webhook_secret(), new_webhook_secret()
BODY = json.dumps({"type": "removal.succeeded", "data": {"name": "Grüße"}}).encode()


def signed(*secrets: str) -> dict[str, str]:
    now = int(time.time())
    return dict(signed_headers(secrets, webhook_id="msg_1", timestamp=now, body=BODY))


@pytest.mark.parametrize("secret", [OLD, NEW], ids=["old", "new"])
def test_while_a_secret_is_replaced_either_verifies(secret: str) -> None:
    assert Webhook(secret).verify(BODY, signed(NEW, OLD)) == json.loads(BODY)


def secret_of(size: int) -> str:
    return f"whsec_{base64.b64encode(b'x' * size).decode()}"


@pytest.mark.parametrize(
    "secret",
    [secret_of(23), secret_of(65), secret_of(32).removeprefix("whsec_"), "whsec_not/base64!" * 3],
)
def test_what_is_no_secret_stops_the_start_and_is_not_repeated(secret: str) -> None:
    with pytest.raises(SettingsError, match=r"RMBG_WEBHOOK_SECRET.*whsec_ and base64") as caught:
        Settings.load(webhook_secret=secret)
    assert secret not in str(caught.value)


@pytest.mark.parametrize("size", [24, 64])
def test_the_sizes_of_the_standard_are_taken(size: int) -> None:
    assert Settings.load(webhook_secret=secret_of(size)).webhook_secret
    assert Webhook(secret_of(size)).verify(BODY, signed(secret_of(size)))
