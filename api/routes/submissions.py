"""`POST /api/v1/remove-bg`: submit a picture."""

from collections.abc import Mapping
from typing import Final

from flask import Response, jsonify, make_response, request, url_for
from flask.views import MethodView

from api.auth import current_owner, services
from api.idempotency import HEADER as IDEMPOTENCY_HEADER
from api.idempotency import Reservation
from api.openapi import ApiBlueprint
from api.parameters import RemovalForm, RemovalJson, build_submission, comparable, read_parameters
from api.rate_limits import charge_pictures
from api.request_hooks import request_id, success
from api.routes.tasks import task_view
from api.schemas import SubmittedSchema, TaskSchema, dumper, envelope
from api.waiting import preferred_wait
from tasks.jobs.job import new_task_id
from tasks.jobs.serializers import iso_time
from tasks.jobs.store import AcceptedJob

blueprint = ApiBlueprint("removals", __name__, url_prefix="/api/v1", description="Submit pictures.")

_SUBMISSION_BODY: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": RemovalForm},
        "application/json": {"schema": RemovalJson},
    },
}

SUBMISSION_HEADERS: Final = [
    {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "1 to 255 visible characters, bare or quoted. For 24 hours, the same key "
        "and payload are answered with the same task (`Idempotency-Replayed: true`).",
        "schema": {"type": "string", "pattern": r"^[!#-\[\]-~]{1,255}$"},
        "example": "order-17-front",
    },
    {
        "in": "header",
        "name": "Prefer",
        "description": "`wait=N`: wait up to N seconds, 60 at most, for the task's end.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
]

#: Errors of a submission beside the general ones; see `ApiBlueprint.fails`.
SUBMISSION_ERRORS: Final = (
    "missing_image",
    "empty_image",
    "forbidden",
    "image_too_large",
    "too_many_pixels",
    "unsupported_format",
    "invalid_image",
    "image_too_small",
    "side_too_long",
    "image_too_complex",
    "url_not_allowed",
    "url_unreachable",
    "url_timeout",
    "upload_not_found",
    "upload_unfinished",
    "upload_expired",
    "idempotency_in_progress",
    "idempotency_mismatch",
    "gone",
    "rate_limited",
    "too_many_fetches",
    "storage_quota_exceeded",
    "too_many_pending",
    "store_unavailable",
    "queue_full",
    "store_full",
    "too_many_bodies",
)


@blueprint.route("/remove-bg")
class RemoveBackground(MethodView):
    """Submissions."""

    @blueprint.doc(requestBody=_SUBMISSION_BODY, parameters=SUBMISSION_HEADERS)
    @blueprint.fails(*SUBMISSION_ERRORS)
    @blueprint.response(202, envelope(SubmittedSchema), description="Accepted: stored and queued.")
    @blueprint.alt_response(200, schema=envelope(TaskSchema), description="Finished already.")
    def post(self) -> Response:
        """Submit one picture.

        The answer comes at once with the task's id; or with the finished task, if the cache had the
        result or the client waited for it.
        """
        owner = current_owner()
        parameters = read_parameters(request, max_file_bytes=services().settings.max_image_bytes)

        def submit(task_id: str, reservation: Reservation | None) -> AcceptedJob:
            # A repeated request costs nothing; a new one is charged before an address is fetched.
            charge_pictures()
            with services().runtime.quotas.released_on_error(owner.id, [task_id]):
                submission = build_submission(
                    parameters.values, services().inputs, owner, task_id=task_id
                )
                return services().submissions.submit(
                    submission, request_id(), task_id=task_id, reservation=reservation
                )

        accepted, replayed = services().idempotency.accept(
            owner.id,
            request.headers.get(IDEMPOTENCY_HEADER),
            comparable(parameters.values, parameters.given),
            former=comparable(parameters.values),
            new_id=new_task_id,
            make=submit,
            find=services().submissions.find,
        )
        headers = {"Idempotency-Replayed": "true"} if replayed else {}
        return answer(accepted, headers)


def answer(accepted: AcceptedJob, headers: Mapping[str, str]) -> Response:
    """Answer 200 with a final task, after a wait if the client prefers one; else 202."""
    job, position = accepted
    seconds = preferred_wait(request)
    applied = {}
    if seconds and not job.status.final:
        found, waited = services().waiter.wait(job, seconds)
        job = found or job
        position = services().submissions.position(job)
        applied = {"Preference-Applied": f"wait={seconds}"} if waited else {}
    status_url = url_for("tasks.Task", task_id=job.task_id, _external=True)
    if job.status.final:
        status, body = 200, dumper(envelope(TaskSchema)).dump(success(task_view(job)))
    else:
        data = {
            "task_id": job.task_id,
            "status": job.status.value,
            "status_url": status_url,
            "result_url": None,
            "queue": job.queue,
            "position": position,
            "created_at": iso_time(job.created_at),
        }
        status, body = 202, dumper(envelope(SubmittedSchema)).dump(success(data))
    return make_response(jsonify(body), status, {"Location": status_url, **headers, **applied})
