"""The endpoints of remove.bg's API 1.0: `/v1.0/removebg`, `/v1.0/account` and `/v1.0/improve`."""

import math
import secrets
from dataclasses import dataclass
from typing import Final

from flask import Blueprint, Flask, Request, Response, g, jsonify, request

from api.auth import current_owner, identify, services
from api.errors import ApiError
from api.forms import Form
from api.inputs import Submission
from api.rate_limits import Rate, RateLimitResult, consume
from api.removebg.parameters import (
    Picture,
    Pictures,
    detected_type,
    is_mask,
    read_body,
    read_options,
    source_name,
)
from api.removebg.responses import (
    RemoveBgError,
    error_of_type,
    error_response,
    fact_headers,
    rate_headers,
    success_response,
    translate_error,
    wants_json,
)
from api.responses import request_id, shape_failures
from api.services import Services
from tasks.accounts.api_keys import Owner
from tasks.jobs.job import Job, Priority, Status
from tasks.storage.object_store import IMPROVEMENTS, ObjectStore

#: Longest that a request waits for its result.
WAIT_SECONDS: Final = 15.0
#: Share of the pixels below which a picture counts as one without a subject.
_LEAST_COVERAGE: Final = 0.001
_MINUTE: Final = 60
_MILLION: Final = 1_000_000
_RETRY_AFTER_SECONDS: Final = 5
_MEGAPIXELS: Final = "megapixels"


@dataclass(frozen=True, slots=True)
class Removal:
    """Removes the background of one request's picture, which waits for the result.

    Attributes:
        services: the shared ones.
        owner: who is asking.
    """

    services: Services
    owner: Owner

    def run(self, request: Request) -> tuple[Job, str | None]:
        """Return the finished job, and the value of `X-Type`.

        Raises:
            RemoveBgError: a parameter or the picture is invalid, or the time is up.
        """
        form = read_body(request, max_file_bytes=self.services.settings.max_image_bytes)
        job = self.services.submit(self._submission(form), request_id()).job
        return self._finished(job), detected_type(form.texts)

    def _submission(self, form: Form) -> Submission:
        pictures = Pictures(self.services.inputs, self.services.settings.image_limits, self.owner)
        image = pictures.image(form)
        background = None if is_mask(form.texts) else pictures.background(form)
        most = self.services.settings.removebg_png_megapixels
        options = read_options(
            form.texts,
            background_sha256=background.sha256() if background else None,
            png_pixels=round(most * _MILLION) if most else None,
        )
        self._charge(image)
        return Submission(
            image=image.upload,
            options=options,
            background=background.upload if background else None,
            owner=self.owner,
            priority=Priority.HIGH,
        )

    def _charge(self, image: Picture) -> None:
        """Charge the megapixels per minute, and the key's own pictures per minute."""
        quota = self.services.settings.removebg_megapixels_per_minute
        allowances = [consume()]
        if quota:
            # A picture of more than the quota costs all of it; otherwise it would never pass.
            cost = min(max(1.0, image.megapixels), quota)
            allowances.append(consume(cost, policy=_MEGAPIXELS, rate=Rate(quota, _MINUTE)))
        for allowance in allowances:
            if allowance is not None and not allowance.allowed:
                raise _too_fast(allowance)

    def _finished(self, job: Job) -> Job:
        done = job if job.status.final else self.services.wait_final(job.task_id, WAIT_SECONDS)
        if done is None or not done.status.final:
            raise RemoveBgError(
                "not_finished",
                "Send the request again: it joins the job that is running.",
                status=503,
                retry_after=_RETRY_AFTER_SECONDS,
            )
        if done.status is not Status.SUCCEEDED:
            raise _failed(done)
        self._require_subject(done)
        return done

    def _require_subject(self, job: Job) -> None:
        if job.coverage is not None and job.coverage < _LEAST_COVERAGE:
            raise RemoveBgError(
                "unknown_foreground",
                f"Less than {_LEAST_COVERAGE:.1%} of the pixels belong to a subject.",
            )


def _too_fast(allowance: RateLimitResult) -> RemoveBgError:
    return RemoveBgError(
        "rate_limit_exceeded",
        f"{allowance.rate.quota:g} {allowance.policy} a minute are allowed.",
        status=429,
        retry_after=math.ceil(allowance.retry_after),
    )


def _failed(job: Job) -> RemoveBgError:
    if job.error is None:
        return RemoveBgError("canceled", "The task was canceled.", status=503, retry_after=1)
    return error_of_type(job.error.type, job.error.message)


def accept_improvement(form: Form, pictures: Pictures, objects: ObjectStore, *, keep: bool) -> str:
    """Accept a picture, and store it if the operator keeps improvements.

    Returns:
        The contribution's id.

    Raises:
        RemoveBgError: there is no picture, or it cannot be used.
        StoreUnavailableError: it could not be kept.
    """
    contribution = secrets.token_hex(16)
    if not keep and source_name(form) == "image_url":
        return contribution  # the picture would not be kept
    upload = pictures.image(form).upload
    if keep:
        objects.put(
            f"{IMPROVEMENTS}{contribution}",
            upload.stream,
            upload.length,
            "application/octet-stream",
        )
    return contribution


PREFIX: Final = "/v1.0"
#: Nothing is bought; clients check that some are left.
_CREDITS: Final = 1_000_000
_EXPOSED: Final = (
    "X-Type, X-Width, X-Height, X-Max-Width, X-Max-Height, X-Credits-Charged, X-Foreground-Top, "
    "X-Foreground-Left, X-Foreground-Width, X-Foreground-Height, X-RateLimit-Limit, "
    "X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
)

blueprint = Blueprint("removebg", __name__, url_prefix=PREFIX)


def install_removebg(app: Flask) -> None:
    """Add the endpoints, and answer all errors below them in remove.bg's format."""
    app.register_blueprint(blueprint)
    app.register_error_handler(RemoveBgError, error_response)
    shape_failures(app, f"{PREFIX}/", _shape)


@blueprint.before_request
def _identify() -> None:
    if request.method != "OPTIONS":
        identify()


@blueprint.post("/removebg")
def remove_background() -> Response:
    """Cut the subject out while the caller waits."""
    job, detected = Removal(services(), current_owner()).run(request)
    data = services().runtime.object_store.get(str(job.result_key))
    response = success_response(data, job, as_json=wants_json(request))
    response.headers.update(fact_headers(job, detected))
    return response


@blueprint.get("/account")
def account() -> Response:
    """Answer with a fixed number of credits."""
    credit = {"total": _CREDITS, "subscription": 0, "payg": _CREDITS, "enterprise": 0}
    calls = {"free_calls": 0, "sizes": "all"}
    return jsonify({"data": {"attributes": {"credits": credit, "api": calls}}})


@blueprint.post("/improve")
def improve() -> Response:
    """Accept a picture for the improvement of models."""
    settings = services().settings
    pictures = Pictures(services().inputs, settings.image_limits, current_owner())
    keep = settings.removebg_keep_improvements
    form = read_body(request, max_file_bytes=settings.max_image_bytes)
    return jsonify(
        {"id": accept_improvement(form, pictures, services().runtime.object_store, keep=keep)}
    )


def _shape(error: ApiError) -> Response:
    translated = translate_error(error)
    if translated.status == 403 and not _any_key():  # noqa: PLR2004 - Forbidden
        translated.title = "Missing API Key"
    if translated.code == "auth_failed":
        translated.detail = None
    # Requests of unknown endpoints or methods belong to no blueprint, whose hooks do not run then.
    return _allow_browsers(error_response(translated))


def _any_key() -> bool:
    return bool(request.headers.get("X-API-Key") or request.headers.get("Authorization"))


@blueprint.after_request
def _allow_browsers(response: Response) -> Response:
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Headers"] = "X-Api-Key, Authorization, Content-Type"
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "POST")
    allowance = g.get("allowance")
    if allowance is not None:
        response.headers.update(rate_headers(allowance, services().clock()))
    return response
