"""Verify a webhook by the standard library: verify_webhook.py SECRET ID TIMESTAMP SIGNATURE."""

import base64
import hashlib
import hmac
import sys
import time

TOLERANCE_SECONDS = 300


def verify(secret: str, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> bool:
    """Return whether the signature of the body, exactly as received, is valid and recent."""
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digest = hmac.digest(key, signed, hashlib.sha256)
    expected = b"v1," + base64.b64encode(digest)
    # There are several while a secret is being replaced; one valid signature is enough.
    given = signatures.encode().split(b" ")
    return any(hmac.compare_digest(expected, each) for each in given)


if __name__ == "__main__":
    sys.exit(0 if verify(*sys.argv[1:5], sys.stdin.buffer.read()) else 1)
