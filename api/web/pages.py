"""The pages at `/` and `/ops`: their files, and the headers that bound what a browser lets it do.

Nothing is built and nothing comes from another host: the files of `static/` are served as they are.
The pages hold no data. Their scripts call the same API as any client, with the same key.
"""

from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Final

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from api.errors import ApiError

_FILES: Final = Path(__file__).parent / "static"
#: By suffix: what a system's own table says differs from one to another.
_MEDIA_TYPES: Final = MappingProxyType(
    {
        ".html": "text/html",
        ".css": "text/css",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }
)

#: `blob:` shows pictures of the page's own memory. No source allows inline scripts or styles.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
#: Headers of each file of the pages.
HEADERS: Final = MappingProxyType(
    {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        # Not `no-referrer`: the API tells its own pages by `Origin`, which that would make null.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # Browsers ask each time, and get 304: an upgrade shows at once.
        "Cache-Control": "no-cache",
    }
)

blueprint = Blueprint("web", __name__)


@blueprint.get("/")
def photos() -> BaseResponse:
    """Answer with the page that cuts out photos."""
    if not request.environ["PATH_INFO"]:
        # At the public URL's path without its slash, the page's relative addresses lead elsewhere.
        return redirect(url_for(".photos", _external=True), HTTPStatus.PERMANENT_REDIRECT)
    return _page_file("index.html")


@blueprint.get("/ops")
def operators() -> Response:
    """Answer with the operators' page, whose script asks for an operator's key."""
    return _page_file("ops.html")


@blueprint.get("/web/<string:name>")
def page_file(name: str) -> Response:
    """Answer with a style, a script or a picture of the pages."""
    return _page_file(name)


def _page_file(name: str) -> Response:
    media_type = _MEDIA_TYPES.get(Path(name).suffix)
    if media_type is None or name not in {each.name for each in _FILES.iterdir()}:
        raise ApiError("not_found")
    answer = Response((_FILES / name).read_bytes(), mimetype=media_type)
    answer.headers.update(HEADERS)
    answer.add_etag()
    answer.make_conditional(request)
    return answer
