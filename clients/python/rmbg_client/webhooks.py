"""Verification of webhooks, which are signed as Standard Webhooks 1.0.0 defines."""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rmbg_client.errors import InvalidWebhookError
from rmbg_client.models import Batch, Task

#: How old, or how far in the future, a webhook may be, in seconds.
TOLERANCE_SECONDS: Final = 300
_PREFIX: Final = "whsec_"
_MAX_DIGITS: Final = 15


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """What a webhook tells. Events come at least once, in any order: remember the ids handled.

    Attributes:
        id: the same in every attempt.
        type: `removal.succeeded`, `removal.failed`, `removal.canceled` or `batch.completed`.
        task: the task that has ended; None for a batch.
        batch: the batch that has ended; None for a task.
    """

    id: str
    type: str
    timestamp: datetime
    task: Task | None
    batch: Batch | None


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secrets: str | Iterable[str],
    *,
    now: Callable[[], float] = time.time,
) -> WebhookEvent:
    """Return the event of a request, if the service signed it within the last five minutes.

    Args:
        headers: of the request; the case of their names does not matter.
        body: the request's bytes as they came, before any parsing.
        secrets: `whsec_…`, or several of which one is enough, while a secret is being replaced.
        now: returns unix time.

    Raises:
        InvalidWebhookError: a signature or the time is wrong.
        ValueError: a secret is none.
    """
    known = {name.lower(): value for name, value in headers.items()}
    webhook_id, timestamp, signatures = (
        _required(known, f"webhook-{each}") for each in ("id", "timestamp", "signature")
    )
    digits = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _MAX_DIGITS
    if not digits or abs(now() - int(timestamp)) > TOLERANCE_SECONDS:
        raise InvalidWebhookError(
            f"The webhook's timestamp is not within {TOLERANCE_SECONDS // 60} minutes of now; is "
            "this machine's clock right?"
        )
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    keys = [_key(each) for each in ([secrets] if isinstance(secrets, str) else secrets)]
    expected = [b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    given = [each.encode() for each in signatures.split(" ")]
    if not any(hmac.compare_digest(one, other) for one in expected for other in given):
        raise InvalidWebhookError("No signature of the webhook is valid; is this its secret?")
    return _event(webhook_id, body)


def _required(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise InvalidWebhookError(f"The header {name} is missing.")
    return value


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not (secret.startswith(_PREFIX) and key):
        raise ValueError(f"A webhook secret is {_PREFIX} and base64, as `rmbg keys add` prints it.")
    return key


def _event(webhook_id: str, body: bytes) -> WebhookEvent:
    try:
        content = json.loads(body)
        data = content["data"]
        return WebhookEvent(
            webhook_id,
            content["type"],
            datetime.fromisoformat(content["timestamp"]),
            Task.of(data) if "task_id" in data else None,
            Batch.of(data) if "batch_id" in data else None,
        )
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidWebhookError("The webhook is signed, but cannot be read.") from error
