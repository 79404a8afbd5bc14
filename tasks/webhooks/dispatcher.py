"""The webhook dispatcher: start attempts at the deliveries that are due."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from tasks.errors import TaskError
from tasks.webhooks.attempt import DeliveryRunner, log_fields
from tasks.webhooks.delivery import Delivery
from tasks.webhooks.retry import BreakerState

#: Attempts at one host at a time; at one that has failed again and again, a single one.
_MAX_PER_HOST: Final = 4
_PAGE_SIZE: Final = 200
#: A delivery for which no place was free is looked at again after this.
_BUSY_SECONDS: Final = 0.5
_SPREAD_SECONDS: Final = 0.01

_log = structlog.get_logger(__name__)


class WebhookDispatcher:
    """Sends; any number of them may run at once. Tests call `run_once` and `settle`."""

    def __init__(self, courier: DeliveryRunner, *, threads: int) -> None:
        self._courier, self._threads = courier, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="webhook")
        self._changed = threading.Condition()
        self._running: Counter[str] = Counter()

    def run_once(self) -> int:
        """Begin what is due and has a place; the number of attempts that were begun.

        Raises:
            QueueUnavailableError: Redis is away.
        """
        begun = 0
        while not self._all_busy():
            page = self._courier.store.due(self._courier.clock(), _PAGE_SIZE)
            begun += self._begin_page(page)
            # What has no place was put off, so a host's long queue hides nobody behind it.
            if len(page) < _PAGE_SIZE:
                break
        return begun

    def _begin_page(self, page: list[Delivery]) -> int:
        now = self._courier.clock()
        hosts = {each.host for each in page}
        health = {host: self._courier.breaker.health(host) for host in hosts}
        later: dict[str, float] = {}
        begun = 0
        for delivery in page:
            if self._all_busy():
                break
            until = self._has_to_wait(delivery, health[delivery.host], now)
            if until is None:
                begun += self._begin(delivery, now)
            else:
                # Spread out, so that they do not all come at the moment the pause is over.
                later[delivery.id] = until + len(later) * _SPREAD_SECONDS
        self._courier.store.postpone(later)
        return begun

    def _has_to_wait(self, delivery: Delivery, health: BreakerState, now: float) -> float | None:
        """Until when, as a unix time; None if it may begin, which takes a place at its host."""
        if health.until > now and not delivery.replayed:
            return health.until
        if not self._enter(delivery.host, 1 if health.suspect else _MAX_PER_HOST):
            return now + _BUSY_SECONDS
        return None

    def settle(self, seconds: float) -> bool:
        """Wait until nothing runs any more, at most so long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running.total(), seconds)

    def close(self) -> None:
        """Begin nothing more, and wait for what runs."""
        self._pool.shutdown()

    def _all_busy(self) -> bool:
        with self._changed:
            return self._running.total() >= self._threads

    def _begin(self, delivery: Delivery, now: float) -> bool:
        seconds = self._courier.claim_seconds
        try:
            claim = self._courier.store.claim(delivery.id, now, seconds=seconds)
        except TaskError:
            self._leave(delivery.host)
            raise
        if claim is None:
            self._leave(delivery.host)
            return False
        self._pool.submit(self._send, delivery, claim)
        return True

    def _enter(self, host: str, most: int) -> bool:
        with self._changed:
            if self._running[host] >= most:
                return False
            self._running[host] += 1
            return True

    def _leave(self, host: str) -> None:
        with self._changed:
            self._running[host] -= 1
            if not self._running[host]:
                del self._running[host]
            self._changed.notify_all()

    def _send(self, delivery: Delivery, claim: str) -> None:
        try:
            self._courier.deliver(delivery, claim)
        except TaskError as error:
            # The claim runs out, and then it is due again.
            _log.warning("webhook.not_settled", reason=str(error), **log_fields(delivery))
        except Exception:  # noqa: BLE001 - one delivery must not end the sender
            _log.exception("webhook.crashed", **log_fields(delivery))
        finally:
            self._leave(delivery.host)
