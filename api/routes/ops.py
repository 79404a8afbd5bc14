"""`/api/v1/ops`: what operators see of everybody's work, and what they change.

The acts are those of `celery jobs` and `celery webhooks`; each leaves a line in the audit log.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import request
from flask.views import MethodView
from marshmallow import Schema, fields, validate

from api.auth import current_owner, require_operator, services
from api.errors import ApiError
from api.openapi import ApiBlueprint
from api.rate_limits import charge_replay
from api.request_hooks import request_id, success
from api.schemas import envelope
from tasks import operations
from tasks.audit import Act, audit_act
from tasks.errors import UnknownWorkerError, WorkerNotDrainedError
from tasks.jobs.job import Job, Status
from tasks.jobs.serializers import iso_time
from tasks.redis_keys import is_id
from tasks.webhooks.deliveries import Delivery

#: Most rows of each list: failed tasks, dead letters, waiting and dead webhooks.
MOST_ROWS: Final = 50
#: Longest reason of a drain, in characters.
MAX_REASON: Final = 200

blueprint = ApiBlueprint(
    "ops", __name__, url_prefix="/api/v1/ops", description="For operators: everybody's work."
)


class WorkerSchema(Schema):
    """A model worker."""

    name = fields.String(required=True, metadata={"example": "gpu0@host"})
    state = fields.String(
        required=True,
        validate=validate.OneOf(["ready", "busy", "not-ready", "drained", "silent"]),
    )
    model = fields.String(required=True)
    queue = fields.String(required=True, metadata={"description": "Its own; empty: none."})
    path = fields.String(required=True, metadata={"description": "How it runs its model."})
    running = fields.Integer(required=True)
    seconds_per_job = fields.Float(required=True)
    resident_bytes = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Memory of its processes; null: it does not say."},
    )
    gpu_used_bytes = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Of its GPU's memory, by anyone; null: no GPU, or not known."},
    )
    gpu_total_bytes = fields.Integer(required=True, allow_none=True)
    drained = fields.String(
        required=True, metadata={"description": "Why it is drained; empty: it is not."}
    )
    silent_seconds = fields.Integer(required=True, allow_none=True)


class QueueSchema(Schema):
    """A queue of jobs."""

    name = fields.String(required=True, metadata={"example": "model.u2netp"})
    waiting = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={
            "description": "Jobs by priority level.",
            "example": {"high": 0, "normal": 3, "low": 0},
        },
    )
    running = fields.Integer(required=True)
    expected_seconds = fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "What a new job would wait; null: no worker takes from it."},
    )


class FailureSchema(Schema):
    """A task that failed, of any owner."""

    task_id = fields.String(required=True)
    owner = fields.String(required=True, metadata={"description": "Empty: without a key."})
    model = fields.String(required=True)
    error = fields.String(required=True, metadata={"example": "deadline_exceeded"})
    message = fields.String(required=True)
    worker = fields.String(required=True, allow_none=True)
    attempts = fields.Integer(required=True)
    finished_at = fields.DateTime(required=True, allow_none=True)
    expires_at = fields.DateTime(required=True)


class OpsWebhookSchema(Schema):
    """A webhook of any owner; its address may hold a secret, so the host alone is shown."""

    webhook_id = fields.String(required=True)
    event = fields.String(required=True)
    subject = fields.String(required=True, metadata={"description": "The task or batch."})
    host = fields.String(required=True)
    state = fields.String(required=True)
    attempts = fields.Integer(required=True)
    reason = fields.String(required=True)
    created_at = fields.DateTime(required=True)
    next_attempt_at = fields.DateTime(required=True, allow_none=True)


class LinksSchema(Schema):
    """Other views of the service, by `RMBG_FLOWER_URL` and `RMBG_GRAFANA_URL`."""

    flower = fields.String(required=True, allow_none=True)
    grafana = fields.String(required=True, allow_none=True)


class OverviewSchema(Schema):
    """The state of the service."""

    workers = fields.List(fields.Nested(WorkerSchema), required=True)
    queues = fields.List(fields.Nested(QueueSchema), required=True)
    counts = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={"description": "Jobs by status."},
    )
    totals = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={
            "description": "How many there are of each list below, which shows some.",
            "example": {
                "failed": 312,
                "dead_letters": 2,
                "waiting_webhooks": 0,
                "dead_webhooks": 1,
            },
        },
    )
    failed = fields.List(
        fields.Nested(FailureSchema),
        required=True,
        metadata={"description": f"The latest {MOST_ROWS}, without the dead letters."},
    )
    dead_letters = fields.List(
        fields.Nested(FailureSchema),
        required=True,
        metadata={"description": f"The oldest {MOST_ROWS}."},
    )
    unreadable = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "Tasks of these lists whose record is damaged."},
    )
    waiting_webhooks = fields.List(
        fields.Nested(OpsWebhookSchema),
        required=True,
        metadata={"description": f"The next {MOST_ROWS}."},
    )
    dead_webhooks = fields.List(
        fields.Nested(OpsWebhookSchema),
        required=True,
        metadata={"description": f"The latest {MOST_ROWS}."},
    )
    links = fields.Nested(LinksSchema, required=True)


class DrainJson(Schema):
    """Why a worker is drained."""

    reason = fields.String(
        load_default=operations.DEFAULT_REASON,
        validate=validate.Length(1, MAX_REASON),
        metadata={"description": "Shown beside the worker.", "example": "new fan"},
    )


class DoneSchema(Schema):
    """What was changed."""

    id = fields.String(required=True, metadata={"description": "Of the worker, task or webhook."})
    outcome = fields.String(
        required=True,
        validate=validate.OneOf(["drained", "undrained", "requeued", "dropped", "replayed"]),
    )


@blueprint.before_request
def _for_operators() -> None:
    # A CORS preflight request carries no key.
    if request.method != "OPTIONS":
        require_operator()


@blueprint.route("")
class Overview(MethodView):
    """The service as operators see it."""

    @blueprint.fails("operators_only")
    @blueprint.response(200, envelope(OverviewSchema))
    def get(self) -> dict[str, Any]:
        """Get workers, queues, failed tasks, dead letters and webhooks of all owners."""
        runtime, settings = services().runtime, services().settings
        workers, silent = runtime.registry.workers(), runtime.registry.silent()
        shown = {each.name: each for each in (*runtime.registry.missing(), *workers)}
        dead = runtime.job_store.dead(MOST_ROWS)
        letters = runtime.job_store.read(dead)
        failed = runtime.job_store.read_newest([Status.FAILED], MOST_ROWS)
        counts = runtime.job_store.counts()
        waiting_hooks, dead_hooks = runtime.deliveries.counts()
        all_dead = runtime.job_store.count_dead()
        links = {"flower": settings.flower_url, "grafana": settings.grafana_url}
        return success(
            {
                "workers": [
                    {
                        "name": each.name,
                        "state": operations.worker_state(each, silent),
                        "model": each.model,
                        "queue": each.queue,
                        "path": each.path,
                        "running": each.running,
                        "seconds_per_job": each.seconds,
                        "resident_bytes": each.resident or None,
                        "gpu_used_bytes": each.gpu_used if each.gpu_total else None,
                        "gpu_total_bytes": each.gpu_total or None,
                        "drained": each.drained,
                        "silent_seconds": silent.get(each.name),
                    }
                    for _, each in sorted(shown.items())
                ],
                "queues": [
                    {
                        "name": each.name,
                        "waiting": each.waiting,
                        "running": each.running,
                        "expected_seconds": each.expected_seconds,
                    }
                    for each in operations.queue_states(runtime, workers)
                ],
                "counts": {status.value: count for status, count in counts.items()},
                "totals": {
                    "failed": max(0, counts[Status.FAILED] - all_dead),
                    "dead_letters": all_dead,
                    "waiting_webhooks": waiting_hooks,
                    "dead_webhooks": dead_hooks,
                },
                "failed": [_failure(job) for job in failed.jobs if job.task_id not in dead],
                "dead_letters": [_failure(job) for job in letters.jobs],
                "unreadable": sorted({*letters.unreadable, *failed.unreadable}),
                "waiting_webhooks": _webhooks(runtime.deliveries.waiting(MOST_ROWS)),
                "dead_webhooks": _webhooks(runtime.deliveries.dead(MOST_ROWS)),
                "links": {name: str(url) if url else None for name, url in links.items()},
            }
        )


def _failure(job: Job) -> dict[str, Any]:
    return {
        "task_id": job.task_id,
        "owner": job.owner,
        "model": job.model,
        "error": job.error.type if job.error else "",
        "message": job.error.message if job.error else "",
        "worker": job.worker,
        "attempts": job.attempts,
        "finished_at": iso_time(job.finished_at),
        "expires_at": iso_time(job.expires_at),
    }


def _webhooks(rows: list[Delivery]) -> list[dict[str, Any]]:
    due = services().runtime.deliveries.due_times([row.id for row in rows])
    return [
        {
            "webhook_id": row.id,
            "event": row.event,
            "subject": row.subject,
            "host": row.host,
            "state": row.state.value,
            "attempts": row.attempts,
            "reason": row.reason,
            "created_at": iso_time(row.created_at),
            "next_attempt_at": iso_time(due.get(row.id)),
        }
        for row in rows
    ]


@blueprint.route("/workers/<string:worker>/drain")
class WorkerDrain(MethodView):
    """Takes a worker out of service."""

    @blueprint.fails("operators_only")
    @blueprint.arguments(DrainJson)
    @blueprint.response(200, envelope(DoneSchema))
    def post(self, drain: dict[str, Any], worker: str) -> dict[str, Any]:
        """Let a worker finish its job and take no other."""
        registry, reason = services().runtime.registry, drain["reason"]
        try:
            operations.drain_worker(registry, worker, reason)
        except UnknownWorkerError as error:
            raise ApiError("worker_not_found") from error
        return _done(Act.DRAINED, "drained", {"worker": worker, "reason": reason})


@blueprint.route("/workers/<string:worker>/undrain")
class WorkerUndrain(MethodView):
    """Brings a worker back into service."""

    @blueprint.fails("operators_only", "worker_not_drained")
    @blueprint.response(200, envelope(DoneSchema))
    def post(self, worker: str) -> dict[str, Any]:
        """Let a drained worker take jobs again."""
        try:
            operations.undrain_worker(services().runtime.registry, worker)
        except UnknownWorkerError as error:
            raise ApiError("worker_not_found") from error
        except WorkerNotDrainedError as error:
            raise ApiError("worker_not_drained") from error
        return _done(Act.UNDRAINED, "undrained", {"worker": worker})


@blueprint.route("/tasks/<string:task_id>/requeue")
class TaskRequeue(MethodView):
    """Runs a task again."""

    @blueprint.fails("operators_only", "not_requeueable", "task_expired")
    @blueprint.response(200, envelope(DoneSchema))
    def post(self, task_id: str) -> dict[str, Any]:
        """Queue a failed or canceled task again, dead letters too, with its attempts from zero."""
        runtime, now = services().runtime, services().clock()
        outcome = _change(task_id, lambda each: operations.requeue_job(runtime, each, now))
        _refuse("requeued", outcome, {"missing": "task_not_found", "expired": "task_expired"})
        return _done(Act.REQUEUED, outcome, {"task_id": task_id})


@blueprint.route("/dead-letters/<string:task_id>")
class DeadLetter(MethodView):
    """A job that crashed or was lost too often."""

    @blueprint.fails("operators_only", "not_dead")
    @blueprint.response(200, envelope(DoneSchema))
    def delete(self, task_id: str) -> dict[str, Any]:
        """Take a task off the dead letters; it stays failed until its record expires."""
        runtime = services().runtime
        outcome = _change(task_id, lambda each: operations.drop_dead_letter(runtime, each))
        _refuse("dropped", outcome, {"missing": "task_not_found"}, "not_dead")
        return _done(Act.DEAD_LETTER_DROPPED, outcome, {"task_id": task_id})


@blueprint.route("/webhooks/<string:webhook_id>/replay")
class WebhookReplay(MethodView):
    """Sends a webhook again."""

    @blueprint.fails("operators_only", "rate_limited")
    @blueprint.response(200, envelope(DoneSchema))
    def post(self, webhook_id: str) -> dict[str, Any]:
        """Send a webhook again under its id, in any state."""
        charge_replay()
        runtime, now = services().runtime, services().clock()
        outcome = _change(webhook_id, lambda each: operations.replay_delivery(runtime, each, now))
        _refuse("replayed", outcome, {"missing": "webhook_not_found"})
        return _done(Act.REPLAYED, outcome, {"webhook_id": webhook_id})


@blueprint.route("/webhooks/<string:webhook_id>")
class Webhook(MethodView):
    """A webhook of any owner."""

    @blueprint.fails("operators_only", "webhook_ended")
    @blueprint.response(200, envelope(DoneSchema))
    def delete(self, webhook_id: str) -> dict[str, Any]:
        """Give a webhook up; its task still lists it, and it can be replayed."""
        runtime = services().runtime
        outcome = _change(webhook_id, lambda each: operations.drop_delivery(runtime, each))
        _refuse("dropped", outcome, {"missing": "webhook_not_found"}, "webhook_ended")
        return _done(Act.DELIVERY_DROPPED, outcome, {"webhook_id": webhook_id})


def _change(given: str, change: Callable[[str], str]) -> str:
    """Return the outcome of a change; what cannot be an id names nothing in Redis."""
    return change(given) if is_id(given) else operations.MISSING


def _refuse(
    done: str, outcome: str, errors: Mapping[str, str], otherwise: str = "not_requeueable"
) -> None:
    """Raise the error for an outcome that is not `done`."""
    if outcome != done:
        raise ApiError(errors.get(outcome, otherwise))


def _done(act: Act, outcome: str, facts: dict[str, str]) -> dict[str, Any]:
    """Audit an act, and return its answer; the first fact is the id of what was changed."""
    audit_act(act, current_owner(), request_id=request_id(), **facts)
    return success({"id": next(iter(facts.values())), "outcome": outcome})
