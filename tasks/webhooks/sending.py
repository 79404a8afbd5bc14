"""Sending webhooks: the dispatcher's messages, and the attempt that each message starts.

The delivery's record is the truth, and a message only a trigger: one that is lost is sent again
after `DISPATCH_SECONDS`, and one that comes twice finds nothing to claim. An attempt claims its
delivery, renders the payload, signs and posts it, and records the outcome.
"""

import base64
import hashlib
import hmac
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from celery import Celery
from pydantic import SecretStr
from redis import Redis

from tasks.api_keys import ApiKeys
from tasks.errors import (
    OutboundRequestError,
    QueueUnavailableError,
    TaskError,
    UrlTimeoutError,
)
from tasks.jobs.batches import BatchStore
from tasks.jobs.routing import DELIVER_TASK, WEBHOOK_QUEUE, broker_errors
from tasks.jobs.serializers import batch_data, task_data
from tasks.jobs.store import JobStore
from tasks.net.http_client import Deadline, HttpClient
from tasks.object_store import ObjectStore
from tasks.redis_client import redis_errors
from tasks.webhooks.deliveries import (
    HOST_BUSY,
    NOT_DUE,
    OWNER_BUSY,
    Attempt,
    Claim,
    Delivery,
    DeliveryState,
    DeliveryStore,
    RetryDecision,
    attempt_outcome,
)
from tasks.webhooks.retry import SUCCESS_STATUSES, HostBreaker, RetryPolicy

#: A message that no worker has claimed within this time is sent again.
DISPATCH_SECONDS: Final = 20.0
#: Messages that wait in the queue at most; what else is due waits in Redis.
MAX_QUEUED: Final = 256
#: Threads of an I/O worker (`celery … -c 32`). An owner has as many deliveries with the queue or a
#: worker as it leaves threads free: half of them alone, a quarter beside another such owner. So one
#: more owner finds a thread, however slow the receivers of the others are. Attempts with their full
#: time have half of the threads at most; owners whose receivers were slow lately wait for one of
#: these, and all others are cut short if there is none for them.
THREADS: Final = 32
#: Time limit of an attempt while enough threads wait for slow receivers. It is longer than what
#: makes an owner slow: the next attempt has its full time.
SHORT_SECONDS: Final = 2.5
#: When a delivery is due again whose attempt was cut short.
_CUT_SHORT_SECONDS: Final = 1.0
#: An owner's deliveries to one host that are with the queue or a worker at once.
MAX_PER_HOST: Final = 4
#: The same for a host whose circuit breaker is half open.
_MAX_PER_HALF_OPEN_HOST: Final = 1
_PAGE_SIZE: Final = 200
#: A delivery to a busy host, or of a busy owner, is due again after this.
_BUSY_SECONDS: Final = 0.5
#: Between two deliveries that are put off for one reason, so that they do not come due at once.
_SPREAD_SECONDS: Final = 0.01
#: A receiver is never sent a larger payload.
MAX_PAYLOAD_BYTES: Final = 20_000
#: How long a claim outlives the attempt's time limit, so that its outcome can be recorded.
_RECORDING_SECONDS: Final = 5.0
#: When a delivery is due again that has expired by a clock that has jumped.
_DOUBT_SECONDS: Final = 60.0
#: When a delivery is due again whose attempt failed for a reason of ours.
_BROKEN_SECONDS: Final = 60.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookDispatcher:
    """Sends the messages of due deliveries; any number of dispatchers may run at once."""

    app: Celery
    client: Redis
    store: DeliveryStore
    breaker: HostBreaker
    clock: Callable[[], float] = time.time

    def run_once(self) -> int:
        """Send messages as far as the queue and the hosts have room, and return their number.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with redis_errors():
            # So that an abandoned queue does not grow for ever.
            room = MAX_QUEUED - int(self.client.llen(WEBHOOK_QUEUE))
        sent, postponed = 0, Counter[str]()
        while sent < room:
            page = self.store.due(self.clock(), _PAGE_SIZE)
            sent += self._dispatch_page(page, room - sent, postponed)
            # What was not sent is due later, so that a busy host's backlog hides no other host's.
            if len(page) < _PAGE_SIZE:
                break
        return sent

    def _dispatch_page(self, page: list[Delivery], room: int, postponed: Counter[str]) -> int:
        """Send messages of due deliveries and postpone the others; return how many were sent.

        Args:
            page: the deliveries.
            room: most messages that are sent.
            postponed: how many this run has postponed of each owner; it is kept up to date. An
                owner's are due one after another, so that of a long backlog each later run has a
                few, which do not fill the pages of the others.
        """
        now = self.clock()
        states = {key: self.breaker.state(*key) for key in {_receiver(each) for each in page}}
        busy: set[str | tuple[str, str]] = set()
        due: dict[str, float] = {}
        sent = 0
        for delivery in page:
            if sent == room:
                break
            state = states[_receiver(delivery)]
            paused = state.open_until > now and not delivery.replayed
            crowd: set[str | tuple[str, str]] = {delivery.owner, _receiver(delivery)}
            if not paused and not crowd & busy:
                number = self._dispatch(delivery, now, half_open=state.half_open)
                if number == HOST_BUSY:
                    busy.add(_receiver(delivery))
                elif number == OWNER_BUSY:
                    busy.add(delivery.owner)
                elif number != NOT_DUE:
                    self._send(delivery, number)
                    sent += 1
            if paused or crowd & busy:
                until = state.open_until if paused else now + _BUSY_SECONDS
                due[delivery.id] = until + postponed[delivery.owner] * _SPREAD_SECONDS
                postponed[delivery.owner] += 1
        self.store.postpone(due, now)
        return sent

    def _dispatch(self, delivery: Delivery, now: float, *, half_open: bool) -> int:
        limit = _MAX_PER_HALF_OPEN_HOST if half_open else MAX_PER_HOST
        return self.store.dispatch(
            delivery, now, seconds=DISPATCH_SECONDS, limit=limit, threads=THREADS
        )

    def _send(self, delivery: Delivery, number: int) -> None:
        """Send a message; the first one's id is the delivery's, so that Flower finds it.

        A later one has a number in its id, since a worker never runs a revoked id again.
        """
        # Flower shows these. The URL may hold a secret, its host does not.
        shown = {"event": delivery.event, "host": delivery.host, "try": delivery.tries + 1}
        with broker_errors():
            self.app.send_task(
                DELIVER_TASK,
                args=[delivery.id],
                task_id=delivery.id if number == 1 else f"{delivery.id}.{number}",
                queue=WEBHOOK_QUEUE,
                kwargsrepr=repr(shown),
                retry=False,
            )


def _receiver(delivery: Delivery) -> tuple[str, str]:
    """Return what has a circuit breaker and a number of deliveries of its own."""
    return delivery.owner, delivery.host


def render_payload(
    job_store: JobStore,
    batches: BatchStore,
    object_store: ObjectStore,
    delivery: Delivery,
    now: float,
) -> bytes | None:
    """Return a delivery's payload; None if its task or batch was erased.

    Each attempt renders it, so that the URLs in it are freshly signed. A batch that is too large
    for a payload is sent without its items: its id leads to them.
    """
    if delivery.kind == "task":
        job = job_store.get(delivery.subject)
        if job is None:
            return None
        data = task_data(job, object_store, now)
    else:
        batch = batches.get(delivery.subject)
        if batch is None:
            return None
        jobs = {job.task_id: job for job in job_store.get_many(batch.task_ids)}
        data = batch_data(batch, jobs, now)
    event = {
        "type": delivery.event,
        "timestamp": datetime.fromtimestamp(delivery.created_at, UTC),
        "data": data,
    }
    payload = _to_json(event)
    if len(payload) >= MAX_PAYLOAD_BYTES and "items" in data:
        payload = _to_json({**event, "data": {**data, "items": None}})
    return payload


def _to_json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), default=datetime.isoformat).encode()


def signing_secrets(
    api_keys: ApiKeys, default: SecretStr | None, owner_id: str, now: float
) -> tuple[str, ...]:
    """Return the secrets that sign an owner's webhooks at a unix time, the newest first.

    The default secret signs the webhooks of callers without an API key, whose owner id is empty.
    """
    if not owner_id:
        return (default.get_secret_value(),) if default else ()
    owner = api_keys.get(owner_id)
    return owner.signing_secrets(now) if owner else ()


def signed_headers(
    secrets: Iterable[str], *, webhook_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Return the headers of one attempt, with a signature for each secret, the newest first.

    Standard Webhooks 1.0.0 signs the id, the time of the attempt (unix seconds) and the raw body.
    """
    signed = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    # What a secret is was checked when it was set.
    keys = (base64.b64decode(each.removeprefix("whsec_"), validate=True) for each in secrets)
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in digests),
    }


@dataclass(eq=False, slots=True)
class RunningAttempt:
    """An attempt that a thread of this process makes.

    Attributes:
        delivery: as it was when it was claimed.
        claim: the right to make it.
        deadline: of the request.
        released: its claim was given up, so that no outcome is recorded.
    """

    delivery: Delivery
    claim: Claim
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
        render: returns the payload of a delivery at a unix time, as `render_payload` does.
        secrets: returns the secrets of an owner at a unix time.
        seconds: longest that a whole attempt may take.
        running: the attempts of this process.
    """

    store: DeliveryStore
    breaker: HostBreaker
    policy: RetryPolicy
    render: Callable[[Delivery, float], bytes | None]
    client: HttpClient
    secrets: Callable[[str, float], tuple[str, ...]]
    seconds: float = 15.0
    clock: Callable[[], float] = time.time
    running: RunningAttempts = field(default_factory=RunningAttempts)

    def run(self, delivery_id: str) -> str:
        """Make one attempt at a delivery that was dispatched.

        Returns:
            The outcome: that of the attempt, `not_claimed` if another message came first,
            `cut_short` if others needed the thread, or `released` if the worker was shut down
            meanwhile or its clock cannot be trusted.

        Raises:
            QueueUnavailableError: Redis does not answer; the claim lapses, and it is due again.
        """
        delivery = self.store.get(delivery_id)
        if delivery is None:
            return "not_claimed"
        short = min(SHORT_SECONDS, self.seconds)
        claim = self.store.claim(
            delivery,
            self.clock(),
            seconds=self.seconds + _RECORDING_SECONDS,
            short=short + _RECORDING_SECONDS,
            threads=THREADS,
        )
        if claim is None:
            return "not_claimed"
        delivery = claim.delivery
        deadline = Deadline(short if claim.short else self.seconds)
        with (
            self.running.track(RunningAttempt(delivery, claim, deadline)) as attempt,
            structlog.contextvars.bound_contextvars(**_log_fields(delivery)),
        ):
            try:
                return self._attempt(attempt)
            except QueueUnavailableError:
                raise
            except Exception:
                # A damaged record, for instance. Its host's slot is for others meanwhile.
                with suppress(TaskError):
                    self.store.release(delivery, claim.token, self.clock() + _BROKEN_SECONDS)
                raise

    def release_all(self) -> None:
        """Give up the claims of all running attempts, and end them: they are due at once."""
        attempts = self.running.all()
        for attempt in attempts:
            attempt.released = True
            attempt.deadline.expire()
        for attempt in attempts:
            try:
                self.store.release(attempt.delivery, attempt.claim.token, self.clock())
                _log.warning("webhook.released", **_log_fields(attempt.delivery))
            except TaskError as error:
                # The claim lapses by itself.
                fields = _log_fields(attempt.delivery)
                _log.warning("webhook.not_released", reason=str(error), **fields)
                # Each of the others would wait for Redis as long.
                return

    def _attempt(self, running: RunningAttempt) -> str:
        """Render and post the payload, decide what follows, and record it; return the outcome."""
        delivery, now = running.delivery, self.clock()
        if _has_expired(delivery, now) and not self.store.may_expire(delivery, now):
            self.store.release(delivery, running.claim.token, now + _DOUBT_SECONDS)
            return "released"
        obstacle = self._obstacle(delivery, now)
        payload = None if obstacle else self.render(delivery, now)
        if payload is None:
            reason = obstacle or "Its task or batch has been erased."
            return self._record(running, None, RetryDecision(DeliveryState.DEAD, now, reason))
        attempt, retry_after = self._post(running, payload, now)
        if running.released:
            return "released"
        if running.claim.short and attempt.outcome == UrlTimeoutError.code:
            # The receiver may be slow and sound: this is not one of the delivery's attempts.
            again, at = self.clock() + _CUT_SHORT_SECONDS, self.clock()
            self.store.release(delivery, running.claim.token, again, slow_at=at)
            _log.info("webhook.cut_short", ms=attempt.ms)
            return "cut_short"
        decision = self._decide(delivery, attempt.status, retry_after)
        self._record_host(delivery, attempt, decision)
        return self._record(running, attempt, decision)

    def _decide(
        self, delivery: Delivery, status: int | None, retry_after: str | None
    ) -> RetryDecision:
        now = self.clock()
        decision = self.policy.decide(delivery, status, retry_after, now)
        if decision.state is DeliveryState.DEAD and not self.store.may_expire(delivery, now):
            # Whether the pictures expire before the next attempt, that one will find out.
            endless = replace(delivery, expires_at=math.inf)
            return self.policy.decide(endless, status, retry_after, now)
        return decision

    def _obstacle(self, delivery: Delivery, now: float) -> str:
        """Return why no attempt is to be made, or nothing."""
        if _has_expired(delivery, now):
            return "The pictures have expired."
        if not delivery.replayed and self.store.disabled(delivery, now):
            return "The receiver answered 410 Gone to an earlier event."
        if not self.secrets(delivery.owner, now):
            if delivery.owner:
                return f"Its owner {delivery.owner} has no API key any more, whose secret signs it."
            return "There is no secret to sign with; set RMBG_WEBHOOK_SECRET."
        return ""

    def _post(
        self, running: RunningAttempt, payload: bytes, now: float
    ) -> tuple[Attempt, str | None]:
        """Post a payload; returns the attempt, and the answer's `Retry-After`."""
        delivery = running.delivery
        secrets = self.secrets(delivery.owner, now)
        headers = signed_headers(secrets, webhook_id=delivery.id, timestamp=int(now), body=payload)
        began = time.monotonic()
        try:
            response = self.client.post(delivery.url, payload, headers, deadline=running.deadline)
        except OutboundRequestError as error:
            ms = round((time.monotonic() - began) * 1000)
            return Attempt(now, error.code, None, ms, str(error)), None
        outcome = "delivered" if response.status in SUCCESS_STATUSES else "refused"
        text = response.body.decode(errors="replace")
        ms = round((time.monotonic() - began) * 1000)
        return Attempt(now, outcome, response.status, ms, text), response.retry_after

    def _record_host(self, delivery: Delivery, attempt: Attempt, decision: RetryDecision) -> None:
        now = self.clock()
        if decision.state is DeliveryState.DELIVERED:
            self.breaker.record_success(*_receiver(delivery))
            self.store.enable(delivery)
        elif decision.pause_host:
            self.breaker.pause(*_receiver(delivery), now, decision.pause_host)
        elif attempt.status is None:
            # It answers nothing at all: threads must not wait for it again and again.
            self.breaker.record_failure(*_receiver(delivery), now)
        if decision.disable:
            self.store.disable(delivery, now)

    def _record(
        self, running: RunningAttempt, attempt: Attempt | None, decision: RetryDecision
    ) -> str:
        """Record an attempt, and return its outcome."""
        outcome = attempt_outcome(attempt)
        state = self.store.record_attempt(running.delivery, running.claim.token, attempt, decision)
        _log.info(
            "webhook.attempted",
            outcome=outcome,
            state=state,
            status=attempt.status if attempt else None,
            ms=attempt.ms if attempt else 0,
        )
        return outcome


def _has_expired(delivery: Delivery, now: float) -> bool:
    # Whoever replays an expired one knows: its payload says so, and holds no URL.
    return delivery.expires_at <= now and not delivery.replayed


def _log_fields(delivery: Delivery) -> dict[str, str | int]:
    """Return what a log line says about a delivery; never the URL, which may hold a secret."""
    return {
        "webhook_id": delivery.id,
        "subject": delivery.subject,
        "request_id": delivery.request_id,
        "event_type": delivery.event,
        "tries": delivery.tries + 1,
    }
