"""Receivers of a cluster's webhooks, and what arrived there."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from standardwebhooks.webhooks import Webhook

from tasks.webhooks.deliveries import DeliveryState
from tests.support.cluster import Cluster
from tests.support.receivers import Receiver, answering, receiver


@contextmanager
def hang_once() -> Iterator[tuple[Receiver, Callable[[], None]]]:
    """A receiver that answers nothing to the first request, until it is released."""
    held = threading.Event()

    def behave(request: BaseHTTPRequestHandler, before: int) -> None:
        if not before:
            held.wait(60)
        answering(200)(request, 0)

    with receiver(behave) as got:
        try:
            yield got, held.set
        finally:
            held.set()


def delivered(made: Cluster, *task_ids: str) -> bool:
    """Has the one event of each task arrived?"""
    deliveries = made.services.runtime.deliveries
    return all(
        [each.state for each in deliveries.of(task_id)] == [DeliveryState.DELIVERED]
        for task_id in task_ids
    )


def ended(made: Cluster, task_ids: Iterable[str]) -> bool:
    return all(made.job(each).status.final for each in task_ids)


def verified(made: Cluster, got: Receiver) -> list[str]:
    """The tasks whose webhooks arrived, with verified signatures."""
    webhook = Webhook(made.settings["RMBG_WEBHOOK_SECRET"])
    return [
        webhook.verify(body, headers)["data"]["task_id"]
        for body, headers in zip(got.bodies, got.headers, strict=True)
    ]
