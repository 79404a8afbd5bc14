"""What a webhook says: the event, and the same data that the API shows."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tasks.webhooks.delivery import Delivery

#: Most that a receiver is sent.
MAX_BYTES: Final = 20_000

#: The data of a task or a batch, by its id; None if there is no such record any more.
Describe = Callable[[str], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Bodies:
    """Renders bodies anew for each attempt, so that the addresses in them are freshly signed.

    Attributes:
        describe: by the kind of the delivery.
    """

    describe: Mapping[str, Describe]

    def render(self, delivery: Delivery) -> bytes | None:
        """The body; None if there is nothing left to tell of."""
        data = self.describe[delivery.kind](delivery.subject)
        if data is None:
            return None
        event = {
            "type": delivery.event,
            "timestamp": datetime.fromtimestamp(delivery.created_at, UTC),
            "data": data,
        }
        body = _write(event)
        if len(body) >= MAX_BYTES and "items" in data:
            # A large batch's items: their ids lead to them, and so does the batch's.
            body = _write({**event, "data": {**data, "items": None}})
        return body


def _write(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot stand in a webhook")
