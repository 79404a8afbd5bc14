"""`/api/v1/remove-bg`: where pictures come in."""

import os
from typing import Any, BinaryIO, cast

from flask.views import MethodView
from werkzeug.datastructures import FileStorage

from api.auth import current_owner
from api.context import services
from api.envelope import request_id, success
from api.errors import ApiError
from api.parsing import FormBlueprint
from api.schemas import RemovalForm, SubmittedSchema, envelope
from api.submission.submission import Submission, Upload
from api.upload_limit import too_large
from api.views import status_url, submitted
from inference.options import Options, parse_color

blueprint = FormBlueprint(
    "removals", __name__, url_prefix="/api/v1", description="Submit pictures."
)


@blueprint.route("/remove-bg")
class RemoveBackground(MethodView):
    """Submissions."""

    @blueprint.arguments(RemovalForm, location="files")
    @blueprint.response(202, envelope(SubmittedSchema), description="Accepted: stored and queued.")
    def post(self, form: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
        """Submit one picture.

        The answer comes at once, with the id under which the cutout can be asked for.
        """
        job = services().submit(_submission(form), request_id())
        return success(submitted(job, services())), 202, {"Location": status_url(job)}


def _submission(form: dict[str, Any]) -> Submission:
    return Submission(
        image=_upload(form["image"]),
        options=_options(form),
        owner=current_owner(),
        cache=form["cache"],
    )


def _options(form: dict[str, Any]) -> Options:
    color = form["matte_color"]
    return Options(
        output_format=form["output_format"],
        # An empty field is what an HTML form sends for "none".
        matte_color=parse_color(color) if color else None,
        quality=form["quality"],
        refine=form["refine"],
    )


def _upload(image: FileStorage | str) -> Upload:
    if isinstance(image, str):
        raise ApiError("missing_image", "The field `image` holds text; send it as a file.")
    length = image.stream.seek(0, os.SEEK_END)
    image.stream.seek(0)
    limit = services().settings.max_image_bytes
    if length == 0:
        raise ApiError("empty_image", fields={"image": "0 bytes."})
    if length > limit:
        raise too_large(length, limit)
    return Upload(cast("BinaryIO", image.stream), length, image.filename or "")
