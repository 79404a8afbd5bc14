"""Downloads: files that the API sends itself, as many at once as its places allow."""

from collections.abc import Callable, Iterable
from http import HTTPStatus

from flask import Response, request

from api.auth import services
from api.callers import current_caller
from api.errors import ApiError
from tasks.errors import ObjectNotFoundError
from tasks.object_store import attachment


def send_object(key: str, media_type: str, file_name: str) -> Response:
    """Answer with an object, as a named file that no browser takes for a page of this origin.

    With a header Range, the answer is the part that it names. A header that names several parts, or
    none that there is, is ignored, as RFC 9110 has it.

    Raises:
        ApiError: `task_expired`: there is no such object any more; `too_many_downloads`.
        ObjectStoreUnavailableError: the store does not answer.
    """
    store = services().runtime.object_store
    try:
        size = store.size(key)
        part = _asked_part(size)
        answer = download(lambda: store.chunks(key, part), media_type)
    except ObjectNotFoundError:
        raise ApiError("task_expired") from None
    start, stop = part or (0, size)
    if part is not None:
        answer.status_code = HTTPStatus.PARTIAL_CONTENT
        answer.content_range.set(start, stop, size)
    answer.headers |= {
        "Content-Length": str(stop - start),
        "Accept-Ranges": "bytes",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": attachment(file_name),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return answer


def _asked_part(size: int) -> tuple[int, int] | None:
    """Return the first byte that Range asks for and the one behind the last; None for the whole."""
    # No answer has a validator that If-Range could name, and a HEAD tells of the whole.
    if request.method != "GET" or request.range is None or "If-Range" in request.headers:
        return None
    return request.range.range_for_length(size)


def download(chunks: Callable[[], Iterable[bytes]], media_type: str) -> Response:
    """Answer with chunks, in a place of the caller's until the last one is sent; HEAD needs none.

    Raises:
        ApiError: `too_many_downloads`: there is no place for the caller.
    """
    answer = Response(content_type=media_type)
    if request.method == "HEAD":
        return answer
    places, caller = services().downloads, current_caller()
    if not places.take(caller):
        raise ApiError(
            "too_many_downloads",
            f"{places.share} downloads of yours may run at once, and fewer while many others do; "
            "read those to their end, or follow the signed URLs, which the object store serves.",
        )
    try:
        answer.response = chunks()
    except BaseException:
        places.give_back(caller)
        raise
    # Called also for an answer of which nothing was read.
    answer.call_on_close(lambda: places.give_back(caller))
    return answer
