"""One attempt at a delivery: claim it, render the payload, sign and post it, record the outcome."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from pydantic import SecretStr

from tasks.accounts.api_keys import ApiKeys
from tasks.errors import OutboundRequestError, QueueUnavailableError, TaskError
from tasks.jobs.batches import BatchStore
from tasks.jobs.serializers import batch_data, task_data
from tasks.jobs.store import JobStore
from tasks.net.http_client import Deadline, HttpClient, HttpResponse
from tasks.signing import signed_headers
from tasks.storage.object_store import ObjectStore
from tasks.webhooks.deliveries import (
    Attempt,
    Delivery,
    DeliveryState,
    DeliveryStore,
    RetryDecision,
    attempt_outcome,
)
from tasks.webhooks.retry import HostBreaker, RetryPolicy

#: A receiver is never sent a larger payload.
MAX_PAYLOAD_BYTES: Final = 20_000
#: How long a claim outlives the attempt's time limit, so that its outcome can be recorded.
_RECORDING_SECONDS: Final = 5.0
#: When a delivery is due again whose attempt failed for a reason of ours.
_BROKEN_SECONDS: Final = 60.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PayloadRenderer:
    """Renders the payload of each attempt, so that the URLs in it are freshly signed."""

    job_store: JobStore
    batches: BatchStore
    object_store: ObjectStore
    clock: Callable[[], float] = time.time

    def render(self, delivery: Delivery) -> bytes | None:
        """Return the payload; None if the task or the batch was erased.

        A batch that is too large for a payload is sent without its items: its id leads to them.
        """
        data = self._data(delivery)
        if data is None:
            return None
        event = {
            "type": delivery.event,
            "timestamp": datetime.fromtimestamp(delivery.created_at, UTC),
            "data": data,
        }
        payload = _to_json(event)
        if len(payload) >= MAX_PAYLOAD_BYTES and "items" in data:
            payload = _to_json({**event, "data": {**data, "items": None}})
        return payload

    def _data(self, delivery: Delivery) -> dict[str, Any] | None:
        """Return what the API answers about the delivery's subject."""
        if delivery.kind == "task":
            job = self.job_store.get(delivery.subject)
            return None if job is None else task_data(job, self.object_store, self.clock())
        batch = self.batches.get(delivery.subject)
        if batch is None:
            return None
        jobs = {job.task_id: job for job in self.job_store.get_many(batch.task_ids)}
        return batch_data(batch, jobs, self.clock())


def _to_json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), default=_iso_time).encode()


def _iso_time(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be part of a webhook's payload")


def signing_secrets(
    api_keys: ApiKeys, default: SecretStr | None, owner_id: str, now: float
) -> tuple[str, ...]:
    """Return the secrets that sign an owner's webhooks, the newest first.

    Args:
        api_keys: the owners.
        default: signs the webhooks of callers without an API key.
        owner_id: the owner; empty for callers without an API key.
        now: unix time; the former secret of a rotation signs too for a day.
    """
    if not owner_id:
        return (default.get_secret_value(),) if default else ()
    owner = api_keys.get(owner_id)
    return owner.signing_secrets(now) if owner else ()


@dataclass(eq=False, slots=True)
class RunningAttempt:
    """An attempt that a thread of this process makes.

    Attributes:
        delivery: as it was when it was claimed.
        claim: fences the outcome.
        deadline: of the request.
        released: its claim was given up, so that no outcome is recorded.
    """

    delivery: Delivery
    claim: str
    deadline: Deadline
    released: bool = False


class RunningAttempts:
    """The attempts of this process, so that a shutdown can wait for them and end them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._attempts: set[RunningAttempt] = set()

    @contextmanager
    def track(self, attempt: RunningAttempt) -> Iterator[RunningAttempt]:
        """Count an attempt as running until the block ends."""
        with self._changed:
            self._attempts.add(attempt)
        try:
            yield attempt
        finally:
            with self._changed:
                self._attempts.discard(attempt)
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` until no attempt runs; False if one still does."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._attempts, seconds)

    def all(self) -> list[RunningAttempt]:
        """Return those that run now."""
        with self._changed:
            return list(self._attempts)


@dataclass(frozen=True, slots=True)
class DeliveryRunner:
    """Makes attempts; the Celery task `rmbg.deliver` runs it in the threads of an I/O worker.

    Attributes:
        store: the deliveries.
        breaker: the circuit breakers of the receiving hosts.
        policy: decides on retries.
        renderer: renders the payloads.
        client: posts them.
        secrets: returns the secrets of an owner at a unix time.
        connect_seconds: longest that connecting may take.
        seconds: longest that a whole attempt may take.
        clock: unix time.
        running: the attempts of this process.
    """

    store: DeliveryStore
    breaker: HostBreaker
    policy: RetryPolicy
    renderer: PayloadRenderer
    client: HttpClient
    secrets: Callable[[str, float], tuple[str, ...]]
    connect_seconds: float = 3.0
    seconds: float = 15.0
    clock: Callable[[], float] = time.time
    running: RunningAttempts = field(default_factory=RunningAttempts)

    def run(self, delivery_id: str) -> str:
        """Make one attempt at a delivery that was dispatched.

        Returns:
            The outcome: that of the attempt, `not_claimed` if another message came first, or
            `released` if the worker was shut down meanwhile.

        Raises:
            QueueUnavailableError: Redis does not answer; the claim lapses, and it is due again.
        """
        delivery = self.store.get(delivery_id)
        if delivery is None:
            return "not_claimed"
        seconds = self.seconds + _RECORDING_SECONDS
        claim = self.store.claim(delivery, self.clock(), seconds=seconds)
        if claim is None:
            return "not_claimed"
        with self.running.track(RunningAttempt(delivery, claim, Deadline(self.seconds))) as attempt:
            try:
                return self._attempt(attempt)
            except QueueUnavailableError:
                raise
            except Exception:
                # A damaged record, for instance. Its host's slot is for others meanwhile.
                with suppress(TaskError):
                    self.store.release(delivery, claim, self.clock() + _BROKEN_SECONDS)
                raise

    def release_all(self) -> None:
        """Give up the claims of all running attempts, and end them: they are due at once."""
        attempts = self.running.all()
        for attempt in attempts:
            attempt.released = True
            attempt.deadline.expire()
        for attempt in attempts:
            try:
                self.store.release(attempt.delivery, attempt.claim, self.clock())
                _log.warning("webhook.released", **log_fields(attempt.delivery))
            except TaskError as error:
                # The claim lapses by itself.
                fields = log_fields(attempt.delivery)
                _log.warning("webhook.not_released", reason=str(error), **fields)
                # Each of the others would wait for Redis as long.
                return

    def _attempt(self, running: RunningAttempt) -> str:
        delivery, now = running.delivery, self.clock()
        obstacle = self._obstacle(delivery, now)
        payload = None if obstacle else self.renderer.render(delivery)
        if payload is None:
            reason = obstacle or "Its task or batch has been erased."
            return self._record(running, None, RetryDecision(DeliveryState.DEAD, now, reason))
        attempt, retry_after = self._post(running, payload, now)
        if running.released:
            return "released"
        decision = self.policy.decide(delivery, attempt.status, retry_after, self.clock())
        self._record_host(delivery, attempt, decision)
        return self._record(running, attempt, decision)

    def _obstacle(self, delivery: Delivery, now: float) -> str:
        """Return why no attempt is to be made, or nothing."""
        # Whoever replays an expired one knows: its payload says so, and holds no URL.
        if delivery.expires_at <= now and not delivery.replayed:
            return "The pictures have expired."
        if not delivery.replayed and self.store.disabled(delivery):
            return "The receiver answered 410 Gone to an earlier event."
        if not self.secrets(delivery.owner, now):
            return "There is no secret to sign with; set RMBG_WEBHOOK_SECRET."
        return ""

    def _post(
        self, running: RunningAttempt, payload: bytes, now: float
    ) -> tuple[Attempt, str | None]:
        """Post a payload; returns the attempt, and the answer's `Retry-After`."""
        began = time.monotonic()
        try:
            response = self._call(running, payload, now)
        except OutboundRequestError as error:
            ms = round((time.monotonic() - began) * 1000)
            return Attempt(now, error.code, None, ms, str(error)), None
        outcome = "delivered" if response.status // 100 == 2 else "refused"  # noqa: PLR2004 - 2xx
        text = response.body.decode(errors="replace")
        ms = round((time.monotonic() - began) * 1000)
        return Attempt(now, outcome, response.status, ms, text), response.retry_after

    def _call(self, running: RunningAttempt, payload: bytes, now: float) -> HttpResponse:
        delivery = running.delivery
        headers = signed_headers(
            self.secrets(delivery.owner, now),
            webhook_id=delivery.id,
            timestamp=int(now),
            body=payload,
        )
        return self.client.post(
            delivery.url,
            payload,
            headers,
            deadline=running.deadline,
            connect_seconds=self.connect_seconds,
        )

    def _record_host(self, delivery: Delivery, attempt: Attempt, decision: RetryDecision) -> None:
        now = self.clock()
        if decision.state is DeliveryState.DELIVERED:
            self.breaker.record_success(delivery.host)
            self.store.enable(delivery)
        elif decision.pause_host:
            self.breaker.pause(delivery.host, now, decision.pause_host)
        elif attempt.status is None:
            # It answers nothing at all: threads must not wait for it again and again.
            self.breaker.record_failure(delivery.host, now)
        if decision.disable:
            self.store.disable(delivery, now)

    def _record(
        self, running: RunningAttempt, attempt: Attempt | None, decision: RetryDecision
    ) -> str:
        """Record an attempt, and return its outcome."""
        outcome = attempt_outcome(attempt)
        state = self.store.record_attempt(running.delivery, running.claim, attempt, decision)
        _log.info(
            "webhook.attempted",
            outcome=outcome,
            state=state,
            status=attempt.status if attempt else None,
            ms=attempt.ms if attempt else 0,
            **log_fields(running.delivery),
        )
        return outcome


def log_fields(delivery: Delivery) -> dict[str, str | int]:
    """Return what a log line says about a delivery; never the URL, which may hold a secret."""
    return {
        "webhook_id": delivery.id,
        "subject": delivery.subject,
        "event_type": delivery.event,
        "tries": delivery.tries + 1,
    }
