"""Webhook secrets and signatures by Standard Webhooks 1.0.0.

A signature is the HMAC-SHA256 of id, timestamp and raw body.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final

from tasks.errors import WebhookSecretError

_PREFIX: Final = "whsec_"
_SECRET_SIZES: Final = range(24, 65)


def secret_bytes(secret: str) -> bytes:
    """Return the key in a secret, which is `whsec_` and base64 of 24 to 64 bytes.

    Raises:
        WebhookSecretError: the text is no secret; the message does not repeat it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or len(key) not in _SECRET_SIZES:
        raise WebhookSecretError(
            "A webhook secret is whsec_ and base64 of 24 to 64 random bytes, such as "
            'the output of: echo "whsec_$(openssl rand -base64 32)"'
        )
    return key


def sign(secrets: Iterable[str], *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: a signature for each secret, the newest first."""
    signed = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    digests = (hmac.digest(secret_bytes(secret), signed, hashlib.sha256) for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def signed_headers(
    secrets: Iterable[str], *, webhook_id: str, timestamp: int, body: bytes
) -> Mapping[str, str]:
    """Return the headers of one attempt.

    Args:
        secrets: of the owner; two of them while one is being replaced.
        webhook_id: of the event; it does not change between attempts.
        timestamp: unix seconds of this attempt.
        body: the bytes that are sent.
    """
    return {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, webhook_id=webhook_id, timestamp=timestamp, body=body),
    }
