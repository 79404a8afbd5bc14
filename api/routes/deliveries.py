"""`/api/v1/tasks/<id>/deliveries`: a task's webhooks, and sending one again."""

from dataclasses import asdict
from typing import Any

from flask.views import MethodView

from api.auth import get_owned_task, services
from api.errors import ApiError
from api.openapi import ApiBlueprint
from api.rate_limits import charge_replay
from api.request_hooks import success
from api.schemas import DeliveriesSchema, DeliverySchema, envelope
from tasks.jobs.serializers import iso_time
from tasks.webhooks.deliveries import Delivery, DeliveryState

blueprint = ApiBlueprint(
    "deliveries",
    __name__,
    url_prefix="/api/v1/tasks/<string:task_id>/deliveries",
    description="Webhooks.",
)


@blueprint.route("")
class Deliveries(MethodView):
    """A task's webhooks."""

    @blueprint.response(200, envelope(DeliveriesSchema))
    def get(self, task_id: str) -> dict[str, Any]:
        """List a task's webhook deliveries, with each attempt."""
        get_owned_task(task_id)
        found = services().runtime.deliveries.of(task_id)
        return success({"deliveries": [_shown(number, row) for number, row in enumerate(found, 1)]})


@blueprint.route("/<int:number>/replay")
class DeliveryReplay(MethodView):
    """Sends a webhook again."""

    @blueprint.fails("delivery_not_found", "rate_limited")
    @blueprint.response(202, envelope(DeliverySchema))
    def post(self, task_id: str, number: int) -> dict[str, Any]:
        """Send a webhook again under its id, in any state."""
        get_owned_task(task_id)
        found = services().runtime.deliveries.of(task_id)
        if not 1 <= number <= len(found):
            raise ApiError("delivery_not_found")
        charge_replay()
        delivery_id = found[number - 1].id
        services().runtime.deliveries.replay(delivery_id, services().clock())
        row = services().runtime.deliveries.get(delivery_id)
        if row is None:
            raise ApiError("delivery_not_found")
        return success(_shown(number, row))


def _shown(number: int, row: Delivery) -> dict[str, Any]:
    store = services().runtime.deliveries
    due = store.next_due(row.id) if row.state is DeliveryState.PENDING else None
    return {
        "number": number,
        "webhook_id": row.id,
        "type": row.event,
        "url": row.url,
        "state": row.state.value,
        "reason": row.reason,
        "created_at": iso_time(row.created_at),
        "next_attempt_at": iso_time(due),
        "attempts": [{**asdict(each), "at": iso_time(each.at)} for each in store.attempts(row.id)],
    }
