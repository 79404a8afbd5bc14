"""One trace from the caller over the queue to the worker, and out to a collector."""

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.util._once import Once

from tasks.errors import SettingsError
from tasks.tracing import configure_tracing, current_traceparent, flush_tracing, span
from tests.support.api import Api
from tests.support.jobs import recorded
from tests.support.models import FakeModel
from tests.support.services import services_on
from tests.support.serving import Request, answer, serving
from tests.support.workers import make_runner

pytest.importorskip("opentelemetry.sdk")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a process begins; a process cannot take tracing back, so the test's is ended here."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    yield
    if trace._TRACER_PROVIDER is not None:
        trace._TRACER_PROVIDER.shutdown()


def test_without_tracing_the_callers_trace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    configure_tracing("rmbg-test")
    for parent, kept in ((PARENT, PARENT), ("evil\nheader", ""), ("", "")):
        with span("r", parent=parent):
            assert current_traceparent() == kept
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match=r"rmbg-queue\[tracing\]"):
        configure_tracing("rmbg-test")


@contextmanager
def collector(spans: list[Any]) -> Iterator[str]:
    """A loopback receiver of OTLP over HTTP; its address."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415 - optional
        ExportTraceServiceRequest,
    )

    def take(request: Request) -> None:
        packed = request.headers.get("Content-Encoding") == "gzip"
        body = gzip.decompress(request.body) if packed else request.body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                spans.extend(scope.spans)
        answer(200)(request)

    with serving(take) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.usefixtures("objects")
def test_one_trace_runs_from_the_caller_to_the_stored_result(
    server_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    services, spans = services_on(server_settings), list[Any]()
    runtime = services.runtime
    runner = make_runner(runtime, FakeModel())
    with collector(spans) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        configure_tracing("rmbg-test")
        task_id = Api.on(services).submit(headers={"traceparent": PARENT})
        assert recorded(runtime.job_store, task_id).traceparent.split("-")[1] == TRACE
        runner.run(task_id)
        flush_tracing()
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    by_name = {span.name: span for span in spans}
    request = by_name["POST /api/v1/remove-bg"]
    assert request.parent_span_id.hex() == SPAN
    job = by_name["job"]
    assert job.parent_span_id == request.span_id
    for name in ("store original", "queue"):
        assert by_name[name].parent_span_id == request.span_id, name
    for stage in ("fetch", "decode", "inference", "compose", "encode", "store"):
        assert by_name[stage].parent_span_id == job.span_id, stage
    facts = {each.key: each.value.string_value for each in job.attributes}
    assert facts["task_id"] == task_id
    assert str(server_settings["s3_secret_key"]) not in str(spans)
