"""One trace for one picture: API, queue, worker, store. Off unless an endpoint is set.

A caller's `traceparent` (W3C Trace Context) is taken, and kept in the record, whether tracing is on
or off: so the trace goes on over the queue, and to the caller's webhook.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

from tasks.errors import SettingsError
from tasks.settings import Settings

HEADER: Final = "traceparent"
_VALID: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
#: What a caller sent, while its request is handled.
_given: ContextVar[str] = ContextVar("traceparent", default="")


def configure_tracing(settings: Settings, service: str) -> None:
    """Send this process's spans to the endpoint of the settings, if there is one.

    Raises:
        SettingsError: there is one, and the extra `tracing` is not installed.
    """
    if settings.otlp_endpoint is None:
        return
    try:
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        raise SettingsError(
            "RMBG_OTLP_ENDPOINT is set, but the packages for it are missing. "
            "Install them with: pip install 'rmbg-queue[tracing]'"
        ) from error
    url = f"{str(settings.otlp_endpoint).rstrip('/')}/v1/traces"
    install_exporter(exporter.OTLPSpanExporter(endpoint=url), service)


def install_exporter(exporter: Any, service: str) -> None:  # noqa: ANN401 - of an optional package
    """Give this process's spans to an exporter, in the background."""
    trace = import_module("opentelemetry.trace")
    sdk = import_module("opentelemetry.sdk.trace")
    export = import_module("opentelemetry.sdk.trace.export")
    resources = import_module("opentelemetry.sdk.resources")
    resource = resources.Resource.create({"service.name": service})
    provider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)


def flush_tracing() -> None:
    """Send what is left, before the process ends."""
    provider = _trace() and _trace().get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(timeout_millis=2000)


@contextmanager
def span(name: str, *, parent: str = "", **attributes: str) -> Iterator[None]:
    """A part of the work, as long as the block lasts; nothing while tracing is off.

    Args:
        name: of the part; no ids in it.
        parent: the `traceparent` that it belongs to; the running span's if empty.
        attributes: facts about it; no secrets.
    """
    trace = _trace()
    if trace is None:
        yield
        return
    context = _context(parent) if _VALID.match(parent) else None
    with trace.get_tracer("rmbg").start_as_current_span(
        name, context=context, attributes=attributes
    ):
        yield


@contextmanager
def request_span(name: str, given: str) -> Iterator[None]:
    """A request's span, under the caller's own if it sent a valid `traceparent`."""
    token = _given.set(given if _VALID.match(given) else "")
    try:
        with span(name, parent=given):
            yield
    finally:
        _given.reset(token)


def current_traceparent() -> str:
    """The running span as a `traceparent`; without tracing, what the caller sent, or nothing."""
    trace = _trace()
    if trace is None:
        return _given.get()
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get(HEADER) or _given.get()


def _trace() -> Any:  # noqa: ANN401 - a module of an optional package
    """OpenTelemetry, once `install_exporter` has loaded it."""
    return (
        sys.modules.get("opentelemetry.trace") if "opentelemetry.sdk.trace" in sys.modules else None
    )


def _context(parent: str) -> Any:  # noqa: ANN401 - the same
    return _propagator().extract({HEADER: parent})


def _propagator() -> Any:  # noqa: ANN401 - the same
    module = import_module("opentelemetry.trace.propagation.tracecontext")
    return module.TraceContextTextMapPropagator()
