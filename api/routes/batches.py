"""`/api/v1/remove-bg/batch` and `/api/v1/batches`: many pictures in one request."""

from typing import Any, Final

import structlog
from flask import Response, g, request, stream_with_context, url_for
from flask.views import MethodView

from api.archive import stream_archive
from api.auth import current_owner, get_owned_batch, services
from api.batch_submission import BatchSubmission
from api.downloads import download
from api.errors import ApiError
from api.forms import form_boundary, form_parts, read_json_object, unbounded_body
from api.idempotency import HEADER as IDEMPOTENCY_HEADER
from api.openapi import ApiBlueprint
from api.request_hooks import OVERHEAD_BYTES, request_id, success
from api.routes.submissions import SUBMISSION_ERRORS, SUBMISSION_HEADERS
from api.schemas import BatchForm, BatchJson, BatchSchema, ErasedBatchSchema, envelope
from api.wsgi_bridge import MAX_BODY
from tasks.audit import Access, audit_access
from tasks.jobs.batches import Batch
from tasks.jobs.job import Status
from tasks.jobs.serializers import batch_data

blueprint = ApiBlueprint(
    "batches", __name__, url_prefix="/api/v1", description="Submit many pictures at once."
)

_BODY: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": BatchForm},
        "application/json": {"schema": BatchJson},
    },
}


#: Room of an item's parameters in JSON, beside a picture in base64.
_ITEM_BYTES: Final = 2**13

_log = structlog.get_logger(__name__)


@blueprint.before_request
def _read_the_body_here() -> None:
    if request.method == "POST":
        _check_size()
        g.body = unbounded_body(request)


@blueprint.route("/remove-bg/batch")
class RemoveBackgrounds(MethodView):
    """Submissions of many pictures."""

    @blueprint.doc(requestBody=_BODY, parameters=SUBMISSION_HEADERS[:1])
    @blueprint.fails(*SUBMISSION_ERRORS, "batch_too_large")
    @blueprint.response(202, envelope(BatchSchema), description="Accepted: each item is a task.")
    def post(self) -> tuple[dict[str, Any], int, dict[str, str]]:
        """Submit many pictures with shared parameters.

        Each becomes a task of its own, with low priority by default. One that cannot be used fails
        alone, with its reason. A `webhook_url` gets one event, when all are done.
        """
        batch, replayed = _submit_batch()
        view = _view(batch)
        headers = {"Idempotency-Replayed": "true"} if replayed else {}
        return success(view), 202, {"Location": view["status_url"], **headers}


@blueprint.route("/batches/<string:batch_id>")
class BatchResource(MethodView):
    """One batch."""

    @blueprint.response(200, envelope(BatchSchema))
    def get(self, batch_id: str) -> dict[str, Any]:
        """Get a batch's state, with each of its items."""
        return success(_view(get_owned_batch(batch_id)))

    @blueprint.fails("store_unavailable")
    @blueprint.response(200, envelope(ErasedBatchSchema))
    def delete(self, batch_id: str) -> dict[str, Any]:
        """Cancel what is not done, and erase all tasks of the batch with their pictures."""
        batch = get_owned_batch(batch_id)
        jobs = services().runtime.job_store.get_many(batch.task_ids)
        erased = 0
        try:
            for job in jobs:
                services().runtime.eraser.erase(job)
                erased += 1
        finally:
            audit_access(Access.ERASED, jobs[:erased], request_id=request_id())
        services().runtime.batches.remove(batch_id)
        return success({"batch_id": batch_id, "erased": True})


@blueprint.route("/batches/<string:batch_id>/cancel")
class BatchCancel(MethodView):
    """Cancels a batch."""

    @blueprint.fails("batch_finished")
    @blueprint.response(200, envelope(BatchSchema))
    def post(self, batch_id: str) -> dict[str, Any]:
        """Cancel the tasks that are not final; finished ones stay."""
        batch = get_owned_batch(batch_id)
        if batch.completed_at is not None:
            raise ApiError("batch_finished")
        for task_id in batch.task_ids:
            if services().runtime.job_store.cancel(task_id) == Status.CANCELED:
                named = {"task_id": task_id, "request_id": batch.request_id}
                _log.info("job.canceled", **named, canceled_by=request_id())
        return success(_view(get_owned_batch(batch_id)))


@blueprint.route("/batches/<string:batch_id>/archive")
class BatchArchive(MethodView):
    """A batch's results."""

    @blueprint.fails(
        "batch_not_finished",
        "batch_empty",
        "batch_expired",
        "too_many_downloads",
        "store_unavailable",
    )
    @blueprint.response(
        200,
        {"type": "string", "format": "binary"},
        content_type="application/zip",
        description="The cutouts, named after their inputs.",
    )
    def get(self, batch_id: str) -> Response:
        """Download all cutouts of a completed batch as a ZIP archive."""
        batch = get_owned_batch(batch_id)
        if batch.expires_at <= services().clock():
            raise ApiError("batch_expired")
        if batch.completed_at is None:
            raise ApiError("batch_not_finished")
        content = stream_archive(batch, services(), request_id())
        answer = download(lambda: stream_with_context(content), "application/zip")
        answer.headers["Content-Disposition"] = f'attachment; filename="{batch_id}.zip"'
        return answer


def _view(batch: Batch) -> dict[str, Any]:
    """Return a batch's state; see `BatchSchema`."""
    jobs = {job.task_id: job for job in services().runtime.job_store.get_many(batch.task_ids)}
    data = batch_data(batch, jobs, services().clock())
    for item in data["items"]:
        task_id = item["task_id"]
        known = task_id in jobs
        item["status_url"] = (
            url_for("tasks.Task", task_id=task_id, _external=True) if known else None
        )
    return {
        **data,
        "status_url": url_for("batches.BatchResource", batch_id=batch.batch_id, _external=True),
        "archive_url": url_for("batches.BatchArchive", batch_id=batch.batch_id, _external=True),
    }


def _submit_batch() -> tuple[Batch, bool]:
    """Accept the request's batch; return it, and whether an earlier request made it."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    submission = BatchSubmission(services(), current_owner(), request_id(), key)
    if request.is_json:
        most = _ITEM_BYTES * (1 + services().settings.max_batch_images)
        return submission.from_json(read_json_object(request, max_bytes=most))
    if request.mimetype != "multipart/form-data":
        raise ApiError("unsupported_media_type")
    parts = form_parts(
        g.body.read,
        form_boundary(request),
        max_files=services().settings.max_batch_images,
    )
    return submission.from_form(parts)


def _check_size() -> None:
    """Bound the body: a form is streamed; JSON is held in memory, so it has one picture's bound."""
    settings = services().settings
    form, json = request.environ[MAX_BODY], settings.max_image_bytes * 4 // 3 + OVERHEAD_BYTES
    if request.is_json:
        request.environ[MAX_BODY] = json
    if (request.content_length or 0) <= request.environ[MAX_BODY]:
        return
    if request.is_json:
        raise ApiError(
            "payload_too_large",
            f"JSON may have {json / 2**20:.0f} MB; send larger pictures as the form's `images`.",
        )
    raise ApiError(
        "payload_too_large",
        f"A batch of {settings.max_batch_images} pictures may have {form / 2**20:.0f} MB; send "
        "several batches.",
    )
