"""The Celery task `rmbg.deliver`: one attempt at a webhook, in a thread of an I/O worker."""

import structlog
from celery import Task, shared_task

from tasks.errors import QueueUnavailableError
from tasks.jobs.routing import DELIVER_TASK
from tasks.runtime import runtime_of

_log = structlog.get_logger(__name__)


# Acknowledged when it starts: the delivery's claim, and not the message, outlives a dead worker.
@shared_task(name=DELIVER_TASK, bind=True, acks_late=False, max_retries=None)
def deliver(self: Task, delivery_id: str) -> str:
    """Attempt a delivery; Flower shows the outcome as the task's result."""
    try:
        return runtime_of(self.app).delivery_runner.run(delivery_id)
    except QueueUnavailableError as error:
        # The claim lapses, or the message counts as lost: the delivery is due again.
        _log.warning("webhook.not_recorded", webhook_id=delivery_id, reason=str(error))
        return "not_recorded"
