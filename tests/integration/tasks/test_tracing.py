"""One trace from the caller over the queue to the worker, and out to a collector."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from inference.probe import ImageLimits
from tasks.redis_client import connect
from tasks.tracing import configure_tracing
from tasks.worker.runner import Runner
from tasks.worker_registry import WorkerRegistry
from tests.support.models import FakeModel
from tests.support.paths import ROOT

pytest.importorskip("opentelemetry.sdk")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def settings(server_settings: dict[str, object]) -> ApiSettings:
    return ApiSettings.load(**server_settings)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def services(settings: ApiSettings, redis: Redis, objects: object) -> Services:  # noqa: ARG001 - emptied; makes the bucket
    return Services.from_settings(settings)


def _submit(client: FlaskClient, coffee: Path) -> str:
    answer = client.post(
        "/api/v1/remove-bg",
        data={"image": (io.BytesIO(coffee.read_bytes()), "a.jpg"), "cache": "false"},
        headers={"traceparent": f"00-{TRACE}-{SPAN}-01"},
    )
    return str(answer.get_json()["data"]["task_id"])


def test_without_tracing_the_caller_s_trace_is_kept_all_the_same() -> None:
    # In a process of its own: once it is on, tracing cannot be taken back.
    script = (
        "import tasks.tracing as t\n"
        f"with t.span('r', parent='00-{TRACE}-{SPAN}-01'): print(t.current_traceparent())\n"
        "with t.span('r', parent='evil\\nheader'): print(repr(t.current_traceparent()))\n"
        "with t.span('r'): print(repr(t.current_traceparent()))\n"
        "import sys; print('opentelemetry.sdk' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"00-{TRACE}-{SPAN}-01", "''", "''", "False"]


class Collector:
    """A loopback receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415 - optional
            ExportTraceServiceRequest,
        )

        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip  # noqa: PLC0415 - only if it is used

                    body = gzip.decompress(body)
                message = ExportTraceServiceRequest.FromString(body)
                for resource in message.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


_WORK = """
import json, sys
sys.path.insert(0, {folder!r})
from tests.integration.tasks import test_tracing as t
from pathlib import Path
from tasks.tracing import flush_tracing
t.one_job(json.loads(sys.argv[1]), Path(sys.argv[2]))
flush_tracing()
"""


def one_job(given: dict[str, object], coffee: Path) -> None:
    """A job through the API's code and the worker's, with tracing on; run in its own process."""
    settings = ApiSettings.load(**given)
    configure_tracing("rmbg-test")
    services = Services.from_settings(settings)
    with create_app(services).test_client() as client:
        task_id = _submit(client, coffee)
    job = services.runtime.job_store.get(task_id)
    assert job is not None
    assert job.traceparent.split("-")[1] == TRACE
    runner = Runner(
        job_store=services.runtime.job_store,
        object_store=services.runtime.object_store,
        registry=WorkerRegistry(connect(settings.redis_url.get_secret_value())),
        model=FakeModel(),
        model_lock=threading.Lock(),
        limits=ImageLimits(),
        worker="gpu0@h",
        exit_child=lambda: None,
    )
    runner.run(task_id)
    sys.stdout.write(task_id)


def test_one_trace_runs_from_the_caller_to_the_stored_result(
    collector: Collector,
    services: Services,  # noqa: ARG001 - makes the bucket, and empties Redis
    settings: ApiSettings,
    coffee: Path,
) -> None:
    given = {
        "redis_url": settings.redis_url.get_secret_value(),
        "s3_endpoint": str(settings.s3_endpoint),
        "s3_access_key": settings.s3_access_key,
        "s3_secret_key": settings.s3_secret_key.get_secret_value(),
        "auth": "off",
    }
    script = _WORK.format(folder=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(given), str(coffee)],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    by_name = {span.name: span for span in collector.spans}
    request = by_name["POST /api/v1/remove-bg"]
    assert request.parent_span_id.hex() == SPAN
    for name in ("store original", "queue"):
        assert by_name[name].parent_span_id == request.span_id, name
    job = by_name["job"]
    assert job.parent_span_id == request.span_id
    for stage in ("fetch", "decode", "inference", "compose", "encode", "store"):
        assert by_name[stage].parent_span_id == job.span_id, stage
    facts = {each.key: each.value.string_value for each in job.attributes}
    assert facts["task_id"] == done.stdout.split()[-1]
    secret = settings.s3_secret_key.get_secret_value()
    assert secret not in str(collector.spans)
