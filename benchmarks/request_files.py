"""List the files that one `POST /api/v1/remove-bg` passes on its way to its webhook.

Starts an API, a model worker and an I/O worker on embedded servers, each with a call tracer, and
submits two pictures with an API key, an Idempotency-Key and a webhook each. The second is traced:
what a process does only once (connect, build its parts) is no part of a request's way, and no cache
answers for another picture under another key. A file counts if one of its functions ran for that
request: a call counts if it, or one of its callers, does not also run while the service is idle. A
Lua file counts if Redis ran a script that contains it. What the reconciler does while it happens to
see the job pending does not count.

python -m benchmarks.request_files           # prints the table
python -m benchmarks.request_files --write   # writes it into docs/architecture.md
"""

import json
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import requests
from redis import Redis
from redis.exceptions import RedisError

from benchmarks import call_tracer
from deploy.local import probes
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from deploy.local.service import Service
from tasks.runtime import Runtime
from tasks.settings import Settings
from tests.support.servers import embedded_store, embedded_valkey, running

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "architecture.md"
PHOTOS: Final = ROOT / "tests" / "data"
HOST, MODEL = "traced", "u2netp"
#: Longer than the interval of every periodic function but the orphan sweep.
IDLE_SECONDS: Final = 45.0
#: After the webhook arrived, its outcome is still being recorded.
TRAILING_SECONDS: Final = 2.0
START_SECONDS: Final = 120.0
#: It watches pending jobs; a request is not passed on by it.
RECONCILER: Final = "tasks.housekeeping.reconcile"
_BLOCK: Final = re.compile(
    r"(<!-- request files -->\n).*(<!-- end of request files -->)", re.DOTALL
)


@dataclass
class Trace:
    """What was seen: each file with the processes that ran it, in the order of first use."""

    files: dict[str, set[str]] = field(default_factory=dict)

    def add(self, file: str, process: str) -> None:
        """Note that a process ran a function of a file."""
        self.files.setdefault(file, set()).add(process)


class Receiver(ThreadingHTTPServer):
    """A webhook receiver on loopback that counts what it gets."""

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received = threading.Semaphore(0)

    @property
    def url(self) -> str:
        """The address that webhooks are sent to."""
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        assert isinstance(self.server, Receiver)  # noqa: S101 - for the type
        self.server.received.release()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver that runs for the length of the block."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def service(folder: Path, trace_folder: Path) -> Iterator[tuple[str, Runtime]]:
    """A traced service; yields the API's address, and a runtime on the same servers."""
    with ExitStack() as stack:
        redis_url = stack.enter_context(embedded_valkey(folder / "valkey"))
        store = stack.enter_context(embedded_store(folder / "store"))
        env = {
            "RMBG_REDIS_URL": redis_url,
            "RMBG_S3_ENDPOINT": store.endpoint,
            "RMBG_S3_ACCESS_KEY": store.access_key,
            "RMBG_S3_SECRET_KEY": store.secret_key,
            "RMBG_HOST": HOST,
            "RMBG_MODEL": MODEL,
            "RMBG_AUTH": "on",
            "RMBG_API_WORKERS": "1",
            "RMBG_URL_ALLOW": "127.0.0.1",
            "PYTHONPATH": str(trace_folder / "path"),
            "CALL_TRACE_FOLDER": str(trace_folder),
        }
        settings = Settings.load(
            redis_url=redis_url,
            s3_endpoint=store.endpoint,
            s3_access_key=store.access_key,
            s3_secret_key=store.secret_key,
        )
        runtime = stack.enter_context(Runtime(settings))
        runtime.object_store.ensure_bucket()
        port, *_ = stack.enter_context(reserved_ports())
        started = (_io_worker(env, settings), _model_worker(env, redis_url), _api(port, env))
        for each in started:
            stack.enter_context(running(each, folder / f"{each.name}.log", seconds=START_SECONDS))
        yield f"http://127.0.0.1:{port}", runtime


def _io_worker(env: dict[str, str], settings: Settings) -> Service:
    name = f"io@{HOST}"
    return _worker(name, "webhooks", "threads", env, probes.worker_online(settings, name))


def _model_worker(env: dict[str, str], redis_url: str) -> Service:
    name = f"gpu0@{HOST}"
    queues = f"gpu.{HOST}.0,model.{MODEL}"
    return _worker(name, queues, "prefork", env, probes.worker_ready(redis_url, name))


def _worker(
    name: str, queues: str, pool: str, env: dict[str, str], probe: local_service.Probe
) -> Service:
    celery = (local_service.script("celery"), "-A", "tasks.app", "worker", "-n", name, "-Q", queues)
    return Service(name, (*celery, "-P", pool), env=env, probe=probe, grace=20)


def _api(port: int, env: dict[str, str]) -> Service:
    address = f"127.0.0.1:{port}"
    gunicorn = (local_service.script("gunicorn"), "-c", "python:api.gunicorn_conf", "-b", address)
    probe = probes.http_ok(f"http://{address}/healthz/ready")
    return Service("api", (*gunicorn, "api.app:create_app()"), env=env, probe=probe)


def submit(url: str, key: str, photo: str, hooks: Receiver) -> None:
    """Submit a photo and wait for its webhook."""
    with (PHOTOS / photo).open("rb") as file:
        answer = requests.post(
            f"{url}/api/v1/remove-bg",
            files={"image": file},
            data={"webhook_url": hooks.url},
            headers={"X-API-Key": key, "Idempotency-Key": photo},
            timeout=60,
        )
    answer.raise_for_status()
    if not hooks.received.acquire(timeout=60):
        sys.exit(f"no webhook within 60 s for {answer.text}")


def run_and_record(trace_folder: Path) -> set[str]:
    """Run the service through all phases; returns the texts of the Lua scripts of the request."""
    phase = trace_folder / "phase"
    phase.write_bytes(bytes([call_tracer.OFF]))
    path = trace_folder / "path"
    path.mkdir()
    shutil.copy(call_tracer.__file__, path / "sitecustomize.py")
    with (
        tempfile.TemporaryDirectory() as name,
        receiver() as hooks,
        service(Path(name), trace_folder) as (url, runtime),
    ):
        _, key = runtime.api_keys.add("traced")
        submit(url, key, "coffee.jpg", hooks)
        time.sleep(TRAILING_SECONDS)
        _switch(phase, call_tracer.IDLE)
        time.sleep(IDLE_SECONDS)
        with _scripts(runtime.redis) as scripts:
            _switch(phase, call_tracer.REQUEST)
            submit(url, key, "chelsea.jpg", hooks)
            time.sleep(TRAILING_SECONDS)
            _switch(phase, call_tracer.OFF)
        return {str(runtime.redis.execute_command("SCRIPT SHOW", sha)) for sha in scripts}


def _switch(phase: Path, value: int) -> None:
    """Change the phase in place, where the traced processes have it mapped."""
    with phase.open("r+b") as file:
        file.write(bytes([value]))


@contextmanager
def _scripts(client: Redis) -> Iterator[set[str]]:
    """Collect the digests of the scripts that Redis runs during the block."""
    seen: set[str] = set()

    def watch() -> None:
        with suppress(RedisError, OSError, ValueError), client.monitor() as monitor:
            ready.set()
            for command in monitor.listen():
                words = command["command"].split()
                if words[0].upper() == "EVALSHA":
                    seen.add(words[1].strip('"'))

    ready = threading.Event()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    ready.wait(10)
    yield seen


def evaluate(trace_folder: Path, scripts: set[str]) -> Trace:
    """The files of the request, from what the processes wrote and the scripts that Redis ran."""
    lines = [
        json.loads(text)
        for path in trace_folder.glob("*.jsonl")
        for text in path.read_text().splitlines()
    ]
    idle = {
        tuple(function)
        for line in lines
        if line["phase"] == call_tracer.IDLE
        for function in line["chain"]
    }
    trace = Trace()
    for line in sorted(lines, key=lambda line: float(line["at"])):
        chain = [tuple(function) for function in line["chain"]]
        if line["phase"] != call_tracer.REQUEST or any(each[0] == RECONCILER for each in chain):
            continue
        if any(each not in idle for each in chain):
            trace.add(_file(str(chain[0][0])), _process(line["arguments"]))
    for path in sorted((ROOT / "tasks").rglob("*.lua")):
        # The first line of a script names the file of its command.
        if any(str(path.relative_to(ROOT)) in script.partition("\n")[0] for script in scripts):
            trace.add(str(path.relative_to(ROOT)), "Redis")
    return trace


def _file(module: str) -> str:
    """The path of a module in the repository."""
    base = ROOT / module.replace(".", "/")
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return str(path.relative_to(ROOT))


def _process(arguments: list[str]) -> str:
    """Which process has this command line."""
    line = " ".join(arguments)
    if "gunicorn" in line:
        return "API"
    if f"gpu0@{HOST}" in line:
        return "model worker (parent)"
    return "I/O worker" if f"io@{HOST}" in line else "model worker (child)"


def table(trace: Trace) -> str:
    """The files as a Markdown table, in the order in which the request reached them."""
    rows = [
        f"| {number} | `{file}` | {', '.join(sorted(processes))} |"
        for number, (file, processes) in enumerate(trace.files.items(), 1)
    ]
    return "\n".join(["| | file | where it runs |", "|---|---|---|", *rows]) + "\n"


def main(arguments: list[str]) -> None:
    """Trace one request; print the table, or write it into the page."""
    with tempfile.TemporaryDirectory() as name:
        trace_folder = Path(name)
        scripts = run_and_record(trace_folder)
        text = table(evaluate(trace_folder, scripts))
    if "--write" in arguments:
        page = PAGE.read_text()
        PAGE.write_text(_BLOCK.sub(lambda found: found[1] + "\n" + text + "\n" + found[2], page))
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
