"""The endpoints of remove.bg's API 1.0: `/v1.0/removebg`, `/v1.0/account` and `/v1.0/improve`."""

import math
import secrets
from typing import Final

from flask import Blueprint, Flask, Response, g, jsonify, request

from api.auth import current_owner, services
from api.errors import ApiError
from api.forms import Form
from api.inputs import InputFile
from api.rate_limits import Rate, RateLimitResult, consume
from api.removebg.parameters import (
    MEGAPIXEL,
    detected_type,
    is_mask,
    open_background,
    open_image,
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
from api.request_hooks import install_cors, request_id, shape_failures
from api.submission import Submission
from tasks.audit import Access, audit_access
from tasks.errors import TaskError
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.object_store import IMPROVEMENTS

#: Longest that a request waits for its result.
WAIT_SECONDS: Final = 15.0
#: Share of the pixels below which a picture counts as one without a subject.
_LEAST_COVERAGE: Final = 0.001
_MINUTE: Final = 60
_HOUR: Final = 3600
#: What each picture costs at least; charged before its size is known.
_LEAST_MEGAPIXELS: Final = 1.0
_RETRY_AFTER_SECONDS: Final = 5
PREFIX: Final = "/v1.0"
#: Nothing is bought; clients check that some are left.
_CREDITS: Final = 1_000_000
#: Headers that a page of another origin may read.
_EXPOSED: Final = (
    *("X-Type", "X-Width", "X-Height", "X-Max-Width", "X-Max-Height", "X-Credits-Charged"),
    *("X-Foreground-Top", "X-Foreground-Left", "X-Foreground-Width", "X-Foreground-Height"),
    *("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"),
)

blueprint = Blueprint("removebg", __name__, url_prefix=PREFIX)


def install_removebg(app: Flask, origins: tuple[str, ...]) -> None:
    """Add the endpoints, with errors in remove.bg's format; pages of these origins may call."""
    app.register_blueprint(blueprint)
    app.register_error_handler(RemoveBgError, error_response)
    shape_failures(app, f"{PREFIX}/", _shape)
    install_cors(app, origins, path=f"{PREFIX}/", exposed=_EXPOSED)


@blueprint.post("/removebg")
def remove_background() -> Response:
    """Cut the subject out while the caller waits."""
    form = read_body(request, max_file_bytes=services().settings.max_image_bytes)
    task_id = new_task_id()
    with services().runtime.quotas.released_on_error(current_owner().id, [task_id]):
        submission = _submission(form, task_id)
        accepted = services().submissions.submit(submission, request_id(), task_id=task_id)
    job = _finished(accepted.job)
    data = services().runtime.object_store.get(str(job.result_key))
    response = success_response(data, job, as_json=wants_json(request))
    audit_access(Access.RESULT, [job], request_id=request_id())
    response.headers.update(fact_headers(job, detected_type(form.texts)))
    return response


def _submission(form: Form, task_id: str) -> Submission:
    owner, settings = current_owner(), services().settings
    # Before an address is fetched.
    _charge_one(consume())
    _charge_megapixels(_LEAST_MEGAPIXELS)
    image = open_image(form, services(), owner, task_id)
    background = None if is_mask(form.texts) else open_background(form, services(), owner, task_id)
    most = settings.removebg_png_megapixels
    options = read_options(
        form.texts,
        background_sha256=background.sha256 if background else None,
        png_pixels=round(most * MEGAPIXEL) if most else None,
    )
    header = image.probe(settings.image_limits)
    megapixels = header.width * header.height / MEGAPIXEL
    _charge_megapixels(megapixels - _LEAST_MEGAPIXELS, spent=_LEAST_MEGAPIXELS)
    return Submission(
        image=image,
        options=options,
        background=background,
        owner=owner,
        priority=Priority.HIGH,
    )


def _charge_megapixels(megapixels: float, *, spent: float = 0) -> None:
    """Charge the megapixels per minute; `spent` is what this picture was charged before."""
    quota = services().settings.removebg_megapixels_per_minute
    if quota and megapixels > 0:
        spent = min(spent, quota)
        # A picture of more than the quota costs all of it; otherwise it would never pass.
        cost = min(megapixels, quota - spent)
        _charge_one(consume(cost, policy="megapixels", rate=Rate(quota, _MINUTE), spent=spent))


def _charge_one(allowance: RateLimitResult | None) -> None:
    if allowance is not None and not allowance.allowed:
        raise RemoveBgError(
            "rate_limit_exceeded",
            f"{allowance.rate.quota:g} {allowance.policy} a minute are allowed.",
            status=429,
            retry_after=math.ceil(allowance.retry_after),
        )


def _finished(job: Job) -> Job:
    """Wait for a job, and return it once it has succeeded with a subject in its picture."""
    waiter = services().waiter
    done, waited = (job, True) if job.status.final else waiter.wait(job, WAIT_SECONDS)
    if not waited:
        raise waiter.refusal()
    if done is None or not done.status.final:
        raise RemoveBgError(
            "not_finished",
            "Send the request again: it joins the job that is running.",
            status=503,
            retry_after=_RETRY_AFTER_SECONDS,
        )
    if done.status is not Status.SUCCEEDED:
        if done.error is None:
            raise RemoveBgError("canceled", "The task was canceled.", status=503, retry_after=1)
        raise error_of_type(done.error.type, done.error.message)
    if done.coverage is not None and done.coverage < _LEAST_COVERAGE:
        raise RemoveBgError(
            "unknown_foreground",
            f"Less than {_LEAST_COVERAGE:.1%} of the pixels belong to a subject.",
        )
    return done


@blueprint.get("/account")
def account() -> Response:
    """Answer with a fixed number of credits."""
    credit = {"total": _CREDITS, "subscription": 0, "payg": _CREDITS, "enterprise": 0}
    calls = {"free_calls": 0, "sizes": "all"}
    return jsonify({"data": {"attributes": {"credits": credit, "api": calls}}})


@blueprint.post("/improve")
def improve() -> Response:
    """Accept a picture for the improvement of models, and store it if the operator keeps them."""
    settings = services().settings
    form = read_body(request, max_file_bytes=settings.max_image_bytes)
    contribution = secrets.token_hex(16)
    keep = settings.removebg_keep_improvements
    # A picture that would not be kept is not fetched.
    if keep or source_name(form) != "image_url":
        _charge_one(consume())
        picture = _open_improvement(form, contribution)
        if keep:
            _keep(contribution, picture)
    return jsonify({"id": contribution})


def _open_improvement(form: Form, contribution: str) -> InputFile:
    """Open a picture that becomes no task; what is charged for a fetch is released after it."""
    owner = current_owner()
    try:
        return open_image(form, services(), owner, contribution)
    finally:
        services().runtime.quotas.release(owner.id, [contribution])


def _keep(contribution: str, picture: InputFile) -> None:
    runtime, owner, key = services().runtime, current_owner(), f"{IMPROVEMENTS}{contribution}"
    seconds = services().settings.retention_hours * _HOUR
    runtime.quotas.charge(owner, [contribution], {key: picture.length}, seconds=seconds)
    try:
        runtime.object_store.put(key, picture.stream, picture.length, "application/octet-stream")
    except TaskError:
        runtime.quotas.release(owner.id, [contribution], [key])
        raise


def _shape(error: ApiError) -> Response:
    translated = translate_error(error)
    if translated.code == "auth_failed":
        translated.detail = None
        if not (request.headers.get("X-API-Key") or request.headers.get("Authorization")):
            translated.title = "Missing API Key"
    return error_response(translated)


@blueprint.after_request
def _state_rates(response: Response) -> Response:
    allowance = g.get("allowance")
    if allowance is not None:
        response.headers.update(rate_headers(allowance, services().clock()))
    return response
