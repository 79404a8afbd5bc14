"""Makes each request a span, under the trace that its caller sent."""

from contextlib import ExitStack

from flask import Flask, g, request

from tasks.tracing import HEADER, request_span


def install_tracing(app: Flask) -> None:
    """Begin a span with each request, and end it with it."""

    @app.before_request
    def _begin() -> None:
        route = request.url_rule.rule if request.url_rule else "none"
        g.tracing = ExitStack()
        given = request.headers.get(HEADER, "")
        g.tracing.enter_context(request_span(f"{request.method} {route}", given))

    @app.teardown_request
    def _end(_error: BaseException | None) -> None:
        tracing = g.pop("tracing", None)
        if tracing is not None:
            tracing.close()
