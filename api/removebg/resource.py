"""`/v1.0`: remove.bg's three addresses."""

from typing import Final

from flask import Blueprint, Flask, Response, g, jsonify, request

from api.auth import current_owner, identify
from api.context import services
from api.envelope import shape_failures
from api.errors import ApiError
from api.removebg.answers import fact_headers, rate_headers, success, wants_json
from api.removebg.errors import RemoveBgError, answer, translate
from api.removebg.form import read_form
from api.removebg.improvement import take_improvement
from api.removebg.removal import Removal
from api.removebg.sources import Pictures

PREFIX: Final = "/v1.0"
#: Nothing is bought here; clients want to see that something is left.
_CREDITS: Final = 1_000_000
_EXPOSED: Final = (
    "X-Type, X-Width, X-Height, X-Max-Width, X-Max-Height, X-Credits-Charged, X-Foreground-Top, "
    "X-Foreground-Left, X-Foreground-Width, X-Foreground-Height, X-RateLimit-Limit, "
    "X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
)

blueprint = Blueprint("removebg", __name__, url_prefix=PREFIX)


def install_removebg(app: Flask) -> None:
    """Add the addresses, and remove.bg's form of every error below them."""
    app.register_blueprint(blueprint)
    app.register_error_handler(RemoveBgError, answer)
    shape_failures(app, f"{PREFIX}/", _shape)
    app.after_request(_allow_browsers)


@blueprint.before_request
def _identify() -> None:
    if request.method != "OPTIONS":
        identify()


@blueprint.post("/removebg")
def remove_background() -> Response:
    """Cut the subject out while the caller waits."""
    job, detected = Removal(services(), current_owner()).run(request)
    data = services().runtime.object_store.get(str(job.result_key))
    response = success(data, job, as_json=wants_json(request))
    response.headers.update(fact_headers(job, detected))
    return response


@blueprint.get("/account")
def account() -> Response:
    """What is left to spend: enough, always."""
    credit = {"total": _CREDITS, "subscription": 0, "payg": _CREDITS, "enterprise": 0}
    calls = {"free_calls": 0, "sizes": "all"}
    return jsonify({"data": {"attributes": {"credits": credit, "api": calls}}})


@blueprint.post("/improve")
def improve() -> Response:
    """Take a picture that a model may learn from."""
    settings = services().settings
    pictures = Pictures(services().inputs, settings.image_limits, current_owner())
    keep = settings.removebg_keep_improvements
    return jsonify(
        {
            "id": take_improvement(
                read_form(request), pictures, services().runtime.object_store, keep=keep
            )
        }
    )


def _shape(error: ApiError) -> Response:
    translated = translate(error)
    if translated.status == 403 and not _any_key():  # noqa: PLR2004 - Forbidden
        translated.title = "Missing API Key"
    if translated.code == "auth_failed":
        translated.detail = None
    return answer(translated)


def _any_key() -> bool:
    return bool(request.headers.get("X-API-Key") or request.headers.get("Authorization"))


def _allow_browsers(response: Response) -> Response:
    if not request.path.startswith(f"{PREFIX}/"):
        return response
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Headers"] = "X-Api-Key, Authorization, Content-Type"
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "POST")
    allowance = g.get("allowance")
    if allowance is not None:
        response.headers.update(rate_headers(allowance, services().clock()))
    return response
