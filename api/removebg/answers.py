"""The answer to a request whose picture is finished: bytes or JSON, and the headers."""

import base64

from flask import Request, Response, jsonify

from inference.options import OutputFormat
from tasks.jobs import Job
from tasks.rates import Allowance

_JSON = "application/json"
#: Nothing is charged here; some clients want to read a number.
_CREDITS = "0.0"


def wants_json(request: Request) -> bool:
    """Is JSON asked for by name?

    A header that also takes anything (`*/*`), as many HTTP libraries send, means bytes.
    """
    accepted = request.accept_mimetypes
    return not any(kind == "*/*" for kind, _ in accepted) and accepted.best == _JSON


def success(data: bytes, job: Job, *, as_json: bool) -> Response:
    """The result."""
    if as_json:
        return jsonify({"data": {"result_b64": base64.b64encode(data).decode(), **_box(job)}})
    return Response(data, mimetype=OutputFormat(job.format or "png").media_type)


def _box(job: Job) -> dict[str, int]:
    box = job.foreground or {}
    return {f"foreground_{side}": box.get(side, 0) for side in ("top", "left", "width", "height")}


def fact_headers(job: Job, detected: str | None) -> dict[str, str]:
    """What is known about a result."""
    facts: dict[str, object] = {
        "X-Width": job.width,
        "X-Height": job.height,
        "X-Max-Width": job.full_width or job.width,
        "X-Max-Height": job.full_height or job.height,
        "X-Credits-Charged": _CREDITS,
        "X-Type": detected,
        **{f"X-{name.replace('_', '-').title()}": value for name, value in _box(job).items()},
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def rate_headers(allowance: Allowance, now: float) -> dict[str, str]:
    """What is left of the caller's megapixels."""
    return {
        "X-RateLimit-Limit": str(int(allowance.rate.quota)),
        "X-RateLimit-Remaining": str(int(allowance.left)),
        "X-RateLimit-Reset": str(int(now) + allowance.reset_after),
    }
