"""`/api/v1/remove-bg`: where pictures come in."""

from typing import Any, Final

from flask import request
from flask.views import MethodView

from api.auth import current_owner
from api.context import services
from api.envelope import request_id, success
from api.limits import charge
from api.parsing import FormBlueprint
from api.schemas import SubmittedSchema, envelope
from api.submission.parameters import RemovalForm, RemovalJson
from api.submission.reading import build_submission, read_parameters
from api.views import status_url, submitted

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
    def post(self) -> tuple[dict[str, Any], int, dict[str, str]]:
        """Submit one picture.

        The answer comes at once, with the id under which the cutout can be asked for.
        """
        charge()
        submission = build_submission(read_parameters(request), services().sources, current_owner())
        job = services().submit(submission, request_id())
        return success(submitted(job, services())), 202, {"Location": status_url(job)}
