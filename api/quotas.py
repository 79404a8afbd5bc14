"""What the caller may still store, upload and have pending: the `Quota` headers, and the error."""

from flask import Flask, Response, g, has_app_context

from api.errors import ApiError
from tasks.errors import QuotaExceededError
from tasks.quotas import Usage


def note_usage(usage: Usage) -> None:
    """Note what the caller has, for the headers of this request's response."""
    if has_app_context():
        g.usage = usage


def install_quota_headers(app: Flask) -> None:
    """State the quotas in the form of draft-ietf-httpapi-ratelimit-headers.

    These are no rates: nothing refills them but the end of jobs and uploads, and erasure. So they
    have headers of their own, and those of the rate stay as clients know them.
    """

    @app.after_request
    def _add_headers(response: Response) -> Response:
        usage: Usage | None = g.get("usage")
        limited = _limited(usage) if usage else []
        if limited:
            policies = [f'"{name}";q={limit}' for name, limit, _ in limited]
            response.headers["Quota-Policy"] = ", ".join(policies)
            response.headers["Quota"] = ", ".join(f'"{name}";r={left}' for name, _, left in limited)
        return response


def _limited(usage: Usage) -> list[tuple[str, int, int]]:
    """Return the name, the limit and the rest of each quota."""
    quota = usage.quota
    parts = (
        ("bytes", quota.max_bytes, usage.bytes),
        ("uploads", quota.max_uploads, usage.uploads),
        ("pending", quota.max_pending, usage.pending),
    )
    return [(name, limit, max(0, limit - used)) for name, limit, used in parts if limit]


def from_quota(error: QuotaExceededError) -> ApiError:
    """Return the error for a quota of the caller that has no room."""
    return ApiError(error.code, str(error))
