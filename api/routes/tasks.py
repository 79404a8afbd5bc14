"""`/api/v1/tasks`: list, follow, cancel and erase tasks, and fetch their results."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import structlog
from flask import Response, redirect, request, stream_with_context
from flask.views import MethodView

from api.auth import current_owner, get_owned_task, require_owned, services
from api.downloads import send_object
from api.errors import ApiError
from api.openapi import ApiBlueprint
from api.request_hooks import request_id, success
from api.schemas import (
    MAX_FOLLOWED,
    ErasedSchema,
    EventsQuery,
    ResultQuery,
    TaskListQuery,
    TaskListSchema,
    TaskSchema,
    WaitQuery,
    dumper,
    envelope,
)
from api.waiting import EVENT, MAX_WAIT_SECONDS
from inference.options import OutputFormat
from tasks.audit import Access, audit_access
from tasks.jobs.job import Job, Status
from tasks.jobs.serializers import result_url, task_data, visible_status
from tasks.jobs.task_listing import Cursor

blueprint = ApiBlueprint(
    "tasks", __name__, url_prefix="/api/v1", description="Follow, cancel and erase tasks."
)

_log = structlog.get_logger(__name__)

#: The fields of a task that are signed URLs, or tell of them.
SIGNED_FIELDS: Final = ("original_url", "result_url", "urls_expire_at")
#: The schema of a picture's bytes.
BINARY: Final = {"type": "string", "format": "binary"}
#: What is documented of an answer to a header Range.
_PART: Final = "The part of the file that the header Range asks for."


def task_view(job: Job) -> dict[str, Any]:
    """Return a task's state, see `TaskSchema`, and audit that its signed URLs were issued."""
    return task_views([job])[0]


def task_views(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return the states of tasks, with a line of the audit log for each kind of signed URLs."""
    store, now = services().runtime.object_store, services().clock()
    views = [task_data(job, store, now) for job in jobs]
    issued: dict[str, list[Job]] = {}
    for job, view in zip(jobs, views, strict=True):
        pictures = " ".join(name for name in ("original", "result") if view[f"{name}_url"])
        issued.setdefault(pictures, []).append(job)
    issued.pop("", None)
    for pictures, of in issued.items():
        audit_access(Access.ADDRESSES, of, request_id=request_id(), pictures=pictures)
    return views


@blueprint.route("/tasks")
class Tasks(MethodView):
    """The caller's tasks."""

    @blueprint.arguments(TaskListQuery, location="query")
    @blueprint.response(200, envelope(TaskListSchema))
    def get(self, query: dict[str, Any]) -> dict[str, Any]:
        """List the caller's tasks, newest first."""
        page = services().runtime.task_list.page(
            current_owner().id,
            limit=query["limit"],
            after=_cursor(query["cursor"]),
            wanted=lambda job: query["status"] in {None, visible_status(job, services().clock())},
        )
        return success(
            {
                "tasks": task_views(page.jobs),
                "next_cursor": page.after.write() if page.after else None,
            }
        )


@blueprint.route("/tasks/<string:task_id>")
class Task(MethodView):
    """One task."""

    @blueprint.arguments(WaitQuery, location="query")
    @blueprint.fails("too_many_waiting")
    @blueprint.response(200, envelope(TaskSchema))
    def get(self, query: dict[str, Any], task_id: str) -> dict[str, Any]:
        """Get a task's state; with `wait`, once it is final or the time is up."""
        job = get_owned_task(task_id)
        seconds = min(query["wait"], MAX_WAIT_SECONDS)
        if seconds > 0 and not job.status.final:
            found, waited = services().waiter.wait(job, seconds)
            if not waited:
                raise services().waiter.refusal()
            job = require_owned(found)
        return success(task_view(job))

    @blueprint.fails("store_unavailable")
    @blueprint.response(200, envelope(ErasedSchema))
    def delete(self, task_id: str) -> dict[str, Any]:
        """Cancel the task if necessary, and erase its pictures and its record.

        Other tasks are never affected, even if they were made from the same bytes.
        """
        job = get_owned_task(task_id)
        services().runtime.eraser.erase(job)
        audit_access(Access.ERASED, [job], request_id=request_id())
        return success({"task_id": task_id, "erased": True})


@blueprint.route("/tasks/<string:task_id>/cancel")
class TaskCancel(MethodView):
    """Cancels a task."""

    @blueprint.fails("task_finished")
    @blueprint.response(200, envelope(TaskSchema))
    def post(self, task_id: str) -> dict[str, Any]:
        """Cancel a task: a queued one never starts, a running one stops between two stages.

        Its original stays until it expires; delete the task to erase it.
        """
        before = get_owned_task(task_id)
        if before.status.final or services().runtime.job_store.cancel(task_id) != Status.CANCELED:
            raise ApiError("task_finished")
        _log.info("job.canceled", **before.log_context(), canceled_by=request_id())
        return success(task_view(get_owned_task(task_id)))


@blueprint.route("/tasks/<string:task_id>/result")
class TaskResult(MethodView):
    """A task's result."""

    @blueprint.arguments(ResultQuery, location="query")
    @blueprint.fails(
        "task_not_finished",
        "task_failed",
        "task_canceled",
        "task_expired",
        "too_many_downloads",
        "store_unavailable",
    )
    @blueprint.response(302, description="`Location` is the cutout's signed address.")
    @blueprint.alt_response(
        200,
        schema=BINARY,
        description="The cutout, if `redirect` is false; its headers alone, if the method is HEAD.",
    )
    @blueprint.alt_response(206, schema=BINARY, description=_PART)
    def get(self, query: dict[str, Any], task_id: str) -> Response:
        """Redirect to the cutout, or answer with it.

        HEAD is answered here: the signed address takes GET alone.
        """
        job = get_owned_task(task_id)
        url = result_url(
            job, services().runtime.object_store, services().clock(), download=query["download"]
        )
        if url is None or job.status is not Status.SUCCEEDED:
            raise _no_result(job)
        audit_access(Access.RESULT, [job], request_id=request_id())
        if not query["redirect"] or request.method == "HEAD":
            media_type = OutputFormat(job.format or "auto").media_type
            return send_object(str(job.result_key), media_type, f"{job.file_stem}.{job.format}")
        return redirect(url)  # type: ignore[return-value] # werkzeug's class is Flask's base


@blueprint.route("/tasks/<string:task_id>/original")
class TaskOriginal(MethodView):
    """A task's original."""

    @blueprint.fails("task_expired", "too_many_downloads", "store_unavailable")
    @blueprint.response(
        200,
        BINARY,
        content_type="application/octet-stream",
        description="The picture as it was submitted, byte for byte.",
    )
    @blueprint.alt_response(206, schema=BINARY, description=_PART)
    def get(self, task_id: str) -> Response:
        """Get the picture that was submitted."""
        job = get_owned_task(task_id)
        if job.expires_at <= services().clock():
            raise ApiError("task_expired")
        audit_access(Access.ORIGINAL, [job], request_id=request_id())
        return send_object(job.original_key, "application/octet-stream", job.file_stem)


@blueprint.route("/events")
class TasksEvents(MethodView):
    """The states of several tasks as server-sent events."""

    @blueprint.arguments(EventsQuery, location="query")
    @blueprint.response(
        200,
        EVENT,
        content_type="text/event-stream",
        description="An event `status` for each state of each task and each new `position`, the "
        "number of tasks of its queue that go before it, without signed URLs. With it comes "
        "`expected_seconds`, what a queued task still waits at the workers' speed; null: no "
        "worker runs it now. Ids without a task of the caller's are left out. The stream ends once "
        "all tasks are final.",
    )
    def get(self, query: dict[str, Any]) -> Response:
        """Follow several tasks by server-sent events."""
        ids = dict.fromkeys(filter(None, query["ids"].split(",")))
        if len(ids) > MAX_FOLLOWED:
            fault = f"These are {len(ids)} ids; one stream follows at most {MAX_FOLLOWED}."
            raise ApiError("invalid_parameter", fault, fields={"ids": fault})
        found = services().runtime.job_store.get_many(list(ids))
        jobs = [job for job in found if job.owner == current_owner().id]
        return _event_stream(lambda: services().waiter.events_of(jobs, _state_data))


@blueprint.route("/tasks/<string:task_id>/events")
class TaskEvents(MethodView):
    """A task's states as server-sent events."""

    @blueprint.response(
        200,
        EVENT,
        content_type="text/event-stream",
        description="An event `status` with the task as its data for each state, until it is "
        "final; then the stream ends. Where the caller has too many requests that wait, it ends "
        "after the present state.",
    )
    def get(self, task_id: str) -> Response:
        """Follow a task by server-sent events."""
        job = get_owned_task(task_id)
        return _event_stream(lambda: services().waiter.events(job, _event_data))


def _event_data(job: Job) -> dict[str, Any]:
    return dict(dumper(TaskSchema).dump(task_view(job)))


def _state_data(job: Job) -> dict[str, Any]:
    """Return a task's state without signed URLs, of which many tasks would issue hundreds."""
    data = task_data(job, services().runtime.object_store, services().clock())
    return dict(dumper(TaskSchema, exclude=SIGNED_FIELDS).dump(data))


def _event_stream(events: Callable[[], Iterator[str] | str]) -> Response:
    answer = Response(mimetype="text/event-stream")
    # Proxies such as nginx would buffer the stream.
    answer.headers |= {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method != "HEAD":
        stream = events()
        if isinstance(stream, str):
            answer.set_data(stream)
        else:
            answer.response = stream_with_context(stream)
    return answer


def _cursor(word: str | None) -> Cursor | None:
    try:
        return None if word is None else Cursor.read(word)
    except ValueError as error:
        raise ApiError("invalid_parameter", str(error), fields={"cursor": str(error)}) from error


def _no_result(job: Job) -> ApiError:
    if visible_status(job, services().clock()) == "expired":
        return ApiError("task_expired")
    if job.error is not None:
        return ApiError("task_failed", f"The task failed: {job.error.message}")
    if job.status is Status.CANCELED:
        return ApiError("task_canceled")
    return ApiError("task_not_finished", f"The task is {job.status}.")
