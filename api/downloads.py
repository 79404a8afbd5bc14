"""Downloads: files that the API sends itself, as many at once as its places allow."""

from collections.abc import Callable, Iterable
from typing import Final

from flask import Response, request

from api.auth import services
from api.callers import current_caller
from api.errors import ApiError
from tasks.errors import ObjectNotFoundError

_RETRY_SECONDS: Final = 5


def send_object(key: str, media_type: str) -> Response:
    """Answer with an object, as a file that no browser takes for a page of this origin.

    Raises:
        ApiError: `task_expired`: there is no such object any more; `too_many_downloads`.
        ObjectStoreUnavailableError: the store does not answer.
    """
    store = services().runtime.object_store
    try:
        size = store.size(key)
        answer = download(lambda: store.chunks(key), media_type)
    except ObjectNotFoundError:
        raise ApiError("task_expired") from None
    answer.headers |= {
        "Content-Length": str(size),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return answer


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
            retry_after=_RETRY_SECONDS,
        )
    try:
        answer.response = chunks()
    except BaseException:
        places.give_back(caller)
        raise
    # Called also for an answer of which nothing was read.
    answer.call_on_close(lambda: places.give_back(caller))
    return answer
