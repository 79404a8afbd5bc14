"""What `schemathesis` needs to know of this API, and may not do."""

from typing import Any

import schemathesis

_ADDRESSES = ("image_url", "background_url", "webhook_url")

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:  # noqa: ANN401 - no types
    """Hosts of its own invention are not looked up: the guard refuses this one as it stands."""
    if isinstance(case.body, dict):
        for name in _ADDRESSES:
            if isinstance(case.body.get(name), str) and "://" in case.body[name]:
                case.body[name] = "http://127.0.0.1:9/picture.jpg"
