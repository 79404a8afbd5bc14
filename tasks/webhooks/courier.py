"""Makes one attempt to bring an event to its receiver, and writes down what came of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from tasks.net.client import Answer, Client
from tasks.net.errors import NetError
from tasks.webhooks.body import Bodies
from tasks.webhooks.breaker import Breaker
from tasks.webhooks.delivery import Attempt, Delivery, State, outcome_of
from tasks.webhooks.schedule import Schedule, Verdict
from tasks.webhooks.signing import headers
from tasks.webhooks.store import DeliveryStore

_SETTLING_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Courier:
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
    breaker: Breaker
    schedule: Schedule
    bodies: Bodies
    client: Client
    secrets: Callable[[str, float], tuple[str, ...]]
    connect_seconds: float = 3.0
    seconds: float = 15.0
    clock: Callable[[], float] = time.time

    @property
    def claim_seconds(self) -> float:
        """How long a sender may hold a delivery: an attempt, and time to write down its outcome."""
        return self.seconds + _SETTLING_SECONDS

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
            self._settle(delivery, claim, None, Verdict(State.DEAD, now, reason))
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
        except NetError as error:
            ms = round((time.monotonic() - began) * 1000)
            return Attempt(now, error.code, None, ms, str(error)), None
        outcome = "delivered" if answer.status // 100 == 2 else "refused"  # noqa: PLR2004 - 2xx
        text = answer.body.decode(errors="replace")
        return Attempt(now, outcome, answer.status, answer.ms, text), answer.retry_after

    def _call(self, delivery: Delivery, body: bytes, now: float) -> Answer:
        signed = headers(
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

    def _note_host(self, delivery: Delivery, attempt: Attempt, verdict: Verdict) -> None:
        now = self.clock()
        if verdict.state is State.DELIVERED:
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
        self, delivery: Delivery, claim: str, attempt: Attempt | None, verdict: Verdict
    ) -> None:
        state = self.store.record_attempt(delivery, claim, attempt, verdict)
        _log.info(
            "webhook.attempted",
            outcome=outcome_of(attempt),
            state=state,
            status=attempt.status if attempt else None,
            ms=attempt.ms if attempt else 0,
            **facts(delivery),
        )


def facts(delivery: Delivery) -> dict[str, str | int]:
    """What a log line says of a delivery; never the address, which may hold a secret."""
    return {
        "webhook_id": delivery.id,
        "subject": delivery.subject,
        "event_type": delivery.event,
        "tries": delivery.tries + 1,
    }
