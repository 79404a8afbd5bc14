"""`/api/v1/remove-bg`: where pictures come in."""

from typing import Final

from flask import Response, jsonify, make_response, request
from flask.views import MethodView

from api.auth import current_owner
from api.context import services
from api.envelope import request_id, success
from api.limits import charge
from api.parsing import FormBlueprint
from api.schemas import SubmittedSchema, TaskSchema, envelope
from api.submission.parameters import RemovalForm, RemovalJson
from api.submission.reading import build_submission, read_parameters
from api.views import status_url, submitted, task
from tasks.jobs import Job

blueprint = FormBlueprint(
    "removals", __name__, url_prefix="/api/v1", description="Submit pictures."
)

_BODY: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": RemovalForm},
        "application/json": {"schema": RemovalJson},
    },
}

#: What else a submission can end with; see `FormBlueprint.fails`.
SUBMISSION_ERRORS: Final = (
    "missing_image",
    "empty_image",
    "forbidden",
    "image_too_large",
    "too_many_pixels",
    "unsupported_format",
    "invalid_image",
    "image_too_small",
    "url_not_allowed",
    "url_unreachable",
    "url_timeout",
    "upload_not_found",
    "upload_unfinished",
    "upload_expired",
    "rate_limited",
    "store_unavailable",
    "queue_full",
)


@blueprint.route("/remove-bg")
class RemoveBackground(MethodView):
    """Submissions."""

    @blueprint.doc(requestBody=_BODY)
    @blueprint.fails(*SUBMISSION_ERRORS)
    @blueprint.response(202, envelope(SubmittedSchema), description="Accepted: stored and queued.")
    @blueprint.alt_response(200, schema=envelope(TaskSchema), description="Finished already.")
    def post(self) -> Response:
        """Submit one picture.

        The answer comes at once, with the id under which the cutout can be asked for; or with the
        finished task, if the result of an equal one could be used again.
        """
        charge()
        submission = build_submission(read_parameters(request), services().sources, current_owner())
        return answer(services().submit(submission, request_id()))


def answer(job: Job) -> Response:
    """200 with a task that is final, else 202."""
    status = 200 if job.status.final else 202
    schema = envelope(TaskSchema if job.status.final else SubmittedSchema)()
    data = (task if job.status.final else submitted)(job, services())
    return make_response(jsonify(schema.dump(success(data))), status, {"Location": status_url(job)})
