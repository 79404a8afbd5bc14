"""Shape every response: the envelope, failures, and the views of tasks and batches."""

import re
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from flask import Flask, Response, current_app, g, jsonify, request, url_for

from api.errors import ApiError, from_inference
from api.services import Services
from inference.errors import InferenceError
from tasks.errors import (
    ObjectStoreUnavailableError,
    QueueFullError,
    QueueUnavailableError,
    UnreadableRecordError,
    UploadError,
)
from tasks.jobs import serializers
from tasks.jobs.batches import Batch
from tasks.jobs.job import Job
from tasks.jobs.job_objects import Access
from tasks.jobs.job_objects import audit_access as audit
from tasks.jobs.serializers import batch_data, iso_time, task_data

_log = structlog.get_logger(__name__)

_RETRY_AFTER_SECONDS: Final = 5

_SHAPES: Final = "rmbg-failure-shapes"

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def success(data: object) -> dict[str, Any]:
    """Put data into the envelope, for a schema made by `schemas.envelope`."""
    return {"code": 0, "message": "success", "data": data, "request_id": request_id()}


def shape_failures(app: Flask, prefix: str, shape: Callable[[ApiError], Response]) -> None:
    """Answer all errors below a path prefix in another shape."""
    app.extensions.setdefault(_SHAPES, {})[prefix] = shape


def failure(error: ApiError) -> Response:
    """Make the response for an error, in the envelope or in the shape of the path's prefix."""
    for prefix, shape in current_app.extensions.get(_SHAPES, {}).items():
        if request.path.startswith(prefix):
            return cast("Response", shape(error))
    return _enveloped(error)


def _enveloped(error: ApiError) -> Response:
    body: dict[str, Any] = {
        "code": error.row.code,
        "message": str(error),
        "data": None,
        "error": {"type": error.row.type, "fields": error.fields},
        "request_id": request_id(),
    }
    answer = jsonify(body)
    answer.status_code = error.row.status
    if error.row.status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def request_id() -> str:
    """Return this request's id: the caller's own if it is a plain word, else a fresh one."""
    if "request_id" not in g:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _REQUEST_ID.match(given) else f"req-{secrets.token_hex(8)}"
    return str(g.request_id)


def install_error_handlers(app: Flask) -> None:
    """Answer the project's exceptions and unexpected ones with rows of the table of errors."""

    @app.errorhandler(ApiError)
    def _api(error: ApiError) -> Response:
        return failure(error)

    @app.errorhandler(InferenceError)
    def _inference(error: InferenceError) -> Response:
        return failure(from_inference(error))

    @app.errorhandler(UploadError)
    def _upload(error: UploadError) -> Response:
        return failure(ApiError(error.code, str(error)))

    @app.errorhandler(QueueFullError)
    @app.errorhandler(QueueUnavailableError)
    @app.errorhandler(ObjectStoreUnavailableError)
    def _unavailable(
        error: QueueFullError | QueueUnavailableError | ObjectStoreUnavailableError,
    ) -> Response:
        _log.warning("request.not_accepted", reason=str(error))
        return failure(ApiError(error.code, retry_after=_RETRY_AFTER_SECONDS))

    @app.errorhandler(UnreadableRecordError)
    def _unreadable(error: UnreadableRecordError) -> Response:
        _log.error("record.unreadable", task_id=error.task_id, reason=error.reason)
        return failure(ApiError("task_unreadable"))

    @app.errorhandler(Exception)
    def _unforeseen(_error: Exception) -> Response:
        _log.exception("request.crashed")
        return failure(ApiError("internal_error"))


def batch_view(batch: Batch, services: Services) -> dict[str, Any]:
    """Return a batch's state; see `BatchSchema`."""
    jobs = batch_jobs(batch, services)
    data = batch_data(batch, jobs, services.clock())
    for item in data["items"]:
        job = jobs.get(item["task_id"] or "")
        item["status_url"] = status_url(job) if job else None
    return {
        **data,
        "status_url": url_for("batches.BatchResource", batch_id=batch.batch_id, _external=True),
        "archive_url": url_for("batches.BatchArchive", batch_id=batch.batch_id, _external=True),
    }


def batch_jobs(batch: Batch, services: Services) -> dict[str, Job]:
    """Return the records of a batch's jobs by task id."""
    return {job.task_id: job for job in services.runtime.job_store.get_many(batch.task_ids)}


def submitted_view(job: Job, position: int) -> dict[str, Any]:
    """Return the answer to a submission; see `SubmittedSchema`."""
    return {
        "task_id": job.task_id,
        "status": job.status.value,
        "status_url": status_url(job),
        "result_url": None,
        "queue": job.queue,
        "position": position,
        "created_at": iso_time(job.created_at),
    }


def task_view(job: Job, services: Services) -> dict[str, Any]:
    """Return a task's state, see `TaskSchema`, and audit that its signed URLs were issued."""
    data = task_data(job, services.runtime.object_store, services.clock())
    issued = [name for name in ("original", "result") if data[f"{name}_url"]]
    if issued:
        audit(Access.ADDRESSES, job, request_id=request_id(), pictures=" ".join(issued))
    return data


def visible_status(job: Job, services: Services) -> str:
    """Return the status that callers see: `expired` once a finished job's pictures are gone."""
    return serializers.visible_status(job, services.clock())


def status_url(job: Job) -> str:
    """Return the task's URL, as this caller reaches the service."""
    return url_for("tasks.Task", task_id=job.task_id, _external=True)
