"""One attempt at a delivery: render the payload, sign and post it, record the outcome."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from tasks.errors import OutboundRequestError
from tasks.net.http_client import HttpClient, HttpResponse
from tasks.signing import signed_headers
from tasks.webhooks.delivery import Attempt, Delivery, DeliveryState, attempt_outcome
from tasks.webhooks.retry import HostBreaker, RetryDecision, RetryPolicy
from tasks.webhooks.store import DeliveryStore

#: Most that a receiver is sent.
MAX_PAYLOAD_BYTES: Final = 20_000

#: The data of a task or a batch, by its id; None if there is no such record any more.
PayloadData = Callable[[str], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class PayloadRenderer:
    """Renders bodies anew for each attempt, so that the addresses in them are freshly signed.

    Attributes:
        describe: by the kind of the delivery.
    """

    describe: Mapping[str, PayloadData]

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
        body = _to_json(event)
        if len(body) >= MAX_PAYLOAD_BYTES and "items" in data:
            # A large batch's items: their ids lead to them, and so does the batch's.
            body = _to_json({**event, "data": {**data, "items": None}})
        return body


def _to_json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), default=_without_urls).encode()


def _without_urls(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot stand in a webhook")


_RECORDING_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryRunner:
    """Everything that an attempt takes.

    Attributes:
        store: the rows.
        breaker: of each host.
        schedule: of the retries.
        bodies: what is said.
        client: posts.
        secrets: of an owner at a unix time.
        connect_seconds: that connecting may take.
        seconds: that a whole attempt may take.
        clock: unix time.
    """

    store: DeliveryStore
    breaker: HostBreaker
    schedule: RetryPolicy
    bodies: PayloadRenderer
    client: HttpClient
    secrets: Callable[[str, float], tuple[str, ...]]
    connect_seconds: float = 3.0
    seconds: float = 15.0
    clock: Callable[[], float] = time.time

    @property
    def claim_seconds(self) -> float:
        """How long a sender may hold a delivery: an attempt, and time to write down its outcome."""
        return self.seconds + _RECORDING_SECONDS

    def deliver(self, delivery: Delivery, claim: str) -> None:
        """One attempt at a claimed delivery.

        Raises:
            QueueUnavailableError: Redis went away; the claim runs out, and it is due again.
        """
        now = self.clock()
        obstacle = self._obstacle(delivery, now)
        body = None if obstacle else self.bodies.render(delivery)
        if body is None:
            reason = obstacle or "What it tells of has been erased."
            self._settle(delivery, claim, None, RetryDecision(DeliveryState.DEAD, now, reason))
            return
        attempt, retry_after = self._post(delivery, body, now)
        verdict = self.schedule.judge(delivery, attempt.status, retry_after, self.clock())
        self._note_host(delivery, attempt, verdict)
        self._settle(delivery, claim, attempt, verdict)

    def _obstacle(self, delivery: Delivery, now: float) -> str:
        """Why no attempt is to be made."""
        # Who asks for it once more knows that: the body says so, and holds no address.
        if delivery.expires_at <= now and not delivery.replayed:
            return "The pictures have expired."
        if not delivery.replayed and self.store.disabled(delivery):
            return "The receiver answered 410 Gone to an earlier event."
        if not self.secrets(delivery.owner, now):
            return "There is no secret to sign with; set RMBG_WEBHOOK_SECRET."
        return ""

    def _post(self, delivery: Delivery, body: bytes, now: float) -> tuple[Attempt, str | None]:
        began = time.monotonic()
        try:
            answer = self._call(delivery, body, now)
        except OutboundRequestError as error:
            ms = round((time.monotonic() - began) * 1000)
            return Attempt(now, error.code, None, ms, str(error)), None
        outcome = "delivered" if answer.status // 100 == 2 else "refused"  # noqa: PLR2004 - 2xx
        text = answer.body.decode(errors="replace")
        return Attempt(now, outcome, answer.status, answer.ms, text), answer.retry_after

    def _call(self, delivery: Delivery, body: bytes, now: float) -> HttpResponse:
        signed = signed_headers(
            self.secrets(delivery.owner, now),
            webhook_id=delivery.id,
            timestamp=int(now),
            body=body,
        )
        return self.client.post(
            delivery.url,
            body,
            signed,
            seconds=self.seconds,
            connect_seconds=self.connect_seconds,
        )

    def _note_host(self, delivery: Delivery, attempt: Attempt, verdict: RetryDecision) -> None:
        now = self.clock()
        if verdict.state is DeliveryState.DELIVERED:
            self.breaker.succeeded(delivery.host)
            self.store.enable(delivery)
        elif verdict.pause_host:
            self.breaker.pause(delivery.host, now, verdict.pause_host)
        elif attempt.status is None:
            # It answers nothing at all: no use in keeping threads waiting for it.
            self.breaker.failed(delivery.host, now)
        if verdict.disable:
            self.store.disable(delivery, now)

    def _settle(
        self, delivery: Delivery, claim: str, attempt: Attempt | None, verdict: RetryDecision
    ) -> None:
        state = self.store.record_attempt(delivery, claim, attempt, verdict)
        _log.info(
            "webhook.attempted",
            outcome=attempt_outcome(attempt),
            state=state,
            status=attempt.status if attempt else None,
            ms=attempt.ms if attempt else 0,
            **log_fields(delivery),
        )


def log_fields(delivery: Delivery) -> dict[str, str | int]:
    """What a log line says of a delivery; never the address, which may hold a secret."""
    return {
        "webhook_id": delivery.id,
        "subject": delivery.subject,
        "event_type": delivery.event,
        "tries": delivery.tries + 1,
    }
