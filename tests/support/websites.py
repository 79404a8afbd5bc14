"""Web servers on loopback that answer with the files of a test."""

import mimetypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.support.serving import Request, answer, serving


@contextmanager
def website(files: Mapping[str, bytes | str]) -> Iterator[str]:
    """Serve the bytes of each path, or redirect to the path that a text names; the address."""

    def handle(request: Request) -> None:
        found = files.get(request.path)
        if isinstance(found, str):
            answer(302, Location=found)(request)
        else:
            kind = mimetypes.guess_type(request.path)[0] or "text/plain"
            status = 404 if found is None else 200
            answer(status, found or b"", Content_Type=kind)(request)

    with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"
