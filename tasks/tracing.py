"""One trace for one image, over the API, the queue, the worker and the object store.

Without the OpenTelemetry SDK, or without a collector, `opentelemetry-api` records nothing and still
carries a caller's `traceparent` (W3C Trace Context) along. The job's record keeps it, so that the
worker continues the caller's trace.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tasks.errors import SettingsError
from tasks.settings import is_tracing_configured

#: The header, and the record's field, that names the trace and the parent span.
HEADER: Final = "traceparent"
_FLUSH_MILLISECONDS: Final = 2000


def configure_tracing(service: str) -> None:
    """Export this process's spans as those of a service, if the environment names a collector.

    The SDK reads `OTEL_EXPORTER_OTLP_ENDPOINT` and all other `OTEL_*` variables by itself.

    Raises:
        SettingsError: a collector is named, and the extra `tracing` is not installed.
    """
    if not is_tracing_configured():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional
    except ImportError as error:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the packages for it are missing. "
            "Install them with: pip install 'rmbg-queue[tracing]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush_tracing() -> None:
    """Export the spans that are still in memory, before the process ends."""
    provider = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(timeout_millis=_FLUSH_MILLISECONDS)


@contextmanager
def span(name: str, *, parent: str = "", **attributes: str) -> Iterator[None]:
    """Record the block as a span.

    Args:
        name: of the step; no ids in it.
        parent: the `traceparent` to continue; the running span's if empty, and a trace of its own
            if malformed.
        attributes: facts about the step; no secrets.
    """
    context = TraceContextTextMapPropagator().extract({HEADER: parent}) if parent else None
    tracer = trace.get_tracer("rmbg")
    with tracer.start_as_current_span(name, context=context, attributes=attributes):
        yield


def current_traceparent() -> str:
    """Return the running span as a `traceparent`; empty if there is none."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(HEADER, "")
