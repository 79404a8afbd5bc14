"""The webhook dispatcher: send a message for each delivery that is due.

The delivery's record is the truth, and a message only a trigger: one that is lost is sent again
after `DISPATCH_SECONDS`, and one that comes twice finds nothing to claim.
"""

import time
from collections.abc import Callable
from typing import Final

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from tasks.errors import QueueUnavailableError
from tasks.jobs.routing import DELIVER_TASK, WEBHOOK_QUEUE
from tasks.redis_client import redis_errors
from tasks.webhooks.deliveries import HOST_BUSY, NOT_DUE, Delivery, DeliveryStore
from tasks.webhooks.retry import BreakerState, HostBreaker

#: A message that no worker has claimed within this time is sent again.
DISPATCH_SECONDS: Final = 20.0
#: Messages that wait in the queue at most; what else is due waits in Redis.
MAX_QUEUED: Final = 256
#: Deliveries to one host that are with the queue or a worker at once, so that a slow receiver
#: leaves most of a worker's threads to others.
MAX_PER_HOST: Final = 4
#: The same for a host whose circuit breaker is half open.
_MAX_PER_HALF_OPEN_HOST: Final = 1
_PAGE_SIZE: Final = 200
#: A delivery to a busy host is due again after this.
_BUSY_SECONDS: Final = 0.5
#: Between two deliveries that are put off for one reason, so that they do not come due at once.
_SPREAD_SECONDS: Final = 0.01


class WebhookDispatcher:
    """Sends the messages of deliveries; any number of dispatchers may run at once.

    Args:
        app: sends the messages.
        client: Redis, which holds the queue.
        store: the deliveries.
        breaker: the circuit breakers of the receiving hosts.
        clock: unix time.
    """

    def __init__(
        self,
        app: Celery,
        client: Redis,
        store: DeliveryStore,
        breaker: HostBreaker,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._client = client
        self._store = store
        self._breaker = breaker
        self._clock = clock

    def run_once(self) -> int:
        """Send messages for what is due, as far as the queue and the hosts have room.

        Returns:
            The number of messages.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        sent, room = 0, self._room()
        while sent < room:
            page = self._store.due(self._clock(), _PAGE_SIZE)
            sent += self._dispatch_page(page, room - sent)
            # What was not sent is due later, so that a busy host's backlog hides no other host's.
            if len(page) < _PAGE_SIZE:
                break
        return sent

    def _room(self) -> int:
        """Return how many messages the queue takes; an abandoned queue does not grow for ever."""
        with redis_errors():
            return MAX_QUEUED - int(self._client.llen(WEBHOOK_QUEUE))

    def _dispatch_page(self, page: list[Delivery], room: int) -> int:
        now = self._clock()
        states = {host: self._breaker.state(host) for host in {each.host for each in page}}
        busy: set[str] = set()
        later: dict[str, float] = {}
        sent = 0
        for delivery in page:
            if sent == room:
                break
            host, state = delivery.host, states[delivery.host]
            paused = state.open_until > now and not delivery.replayed
            if not paused and host not in busy:
                number = self._dispatch(delivery, state, now)
                if number == HOST_BUSY:
                    busy.add(host)
                elif number != NOT_DUE:
                    self._send(delivery, number)
                    sent += 1
            if paused or host in busy:
                until = state.open_until if paused else now + _BUSY_SECONDS
                later[delivery.id] = until + len(later) * _SPREAD_SECONDS
        self._store.postpone(later, now)
        return sent

    def _dispatch(self, delivery: Delivery, state: BreakerState, now: float) -> int:
        limit = _MAX_PER_HALF_OPEN_HOST if state.half_open else MAX_PER_HOST
        return self._store.dispatch(delivery, now, seconds=DISPATCH_SECONDS, limit=limit)

    def _send(self, delivery: Delivery, number: int) -> None:
        """Send a message; the first one's id is the delivery's, so that Flower finds it.

        A later one has a number in its id, since a worker never runs a revoked id again.
        """
        try:
            self._app.send_task(
                DELIVER_TASK,
                args=[delivery.id],
                task_id=delivery.id if number == 1 else f"{delivery.id}.{number}",
                queue=WEBHOOK_QUEUE,
                kwargsrepr=_displayed_arguments(delivery),
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailableError(f"Redis does not answer: {error}") from error


def _displayed_arguments(delivery: Delivery) -> str:
    """Return what Flower shows beside the id; the URL may hold a secret, its host does not."""
    return repr({"event": delivery.event, "host": delivery.host, "try": delivery.tries + 1})
