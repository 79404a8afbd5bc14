"""`/api/v1/tasks`: how a submission is getting on, and what came of it."""

from typing import Any

from flask import Response, redirect
from flask.views import MethodView

from api.context import services
from api.envelope import success
from api.errors import ApiError
from api.parsing import FormBlueprint
from api.schemas import ResultQuery, TaskSchema, WaitQuery, envelope
from api.views import task, visible_status
from tasks.jobs import Job, Status

blueprint = FormBlueprint("tasks", __name__, url_prefix="/api/v1/tasks", description="Follow them.")


def found(job: Job | None) -> Job:
    """The job, or the error for one that is not there."""
    if job is None:
        raise ApiError("task_not_found")
    return job


@blueprint.route("/<string:task_id>")
class Task(MethodView):
    """One task."""

    @blueprint.arguments(WaitQuery, location="query")
    @blueprint.response(200, envelope(TaskSchema))
    def get(self, query: dict[str, Any], task_id: str) -> dict[str, Any]:
        """A task's present state; with `wait`, its state once it is final or the time is up."""
        seconds = min(query["wait"], services().settings.max_wait_seconds)
        job = found(services().wait_final(task_id, seconds))
        return success(task(job, services()))


@blueprint.route("/<string:task_id>/result")
class TaskResult(MethodView):
    """A task's cutout."""

    @blueprint.arguments(ResultQuery, location="query")
    @blueprint.response(302, description="`Location` is the cutout's signed address.")
    def get(self, query: dict[str, Any], task_id: str) -> Response:
        """Redirect to the cutout."""
        job = found(services().store.get(task_id))
        url = services().result_url(job, download=query["download"])
        if url is None or job.status is not Status.SUCCEEDED:
            raise _no_result(job)
        return redirect(url)  # type: ignore[return-value] # werkzeug's class is Flask's base


def _no_result(job: Job) -> ApiError:
    if visible_status(job, services()) == "expired":
        return ApiError("task_expired")
    if job.error is not None:
        return ApiError("task_failed", f"The task failed: {job.error.message}")
    return ApiError("task_not_finished", f"The task is {job.status}.", retry_after=1)
