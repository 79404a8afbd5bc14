"""What hostile clients cost the others: attacks at full size, honest submissions beside them.

Starts servers, APIs and workers of its own on free ports of loopback, attacks them, and prints
Markdown. Takes less than 8 minutes; `python -m benchmarks.hostile clients` measures one part.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import urllib3
from PIL import Image

from benchmarks.pretend_worker import SLEEP_FILE
from deploy.bench.processes import machine
from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from tasks.api_keys import ApiKeys
from tasks.jobs.job import Job, Status, new_task_id
from tasks.object_store import original_key
from tasks.redis_client import connect
from tasks.settings import Settings
from tests.support.hostile_requests import (
    FILES,
    MB,
    HostileRequest,
    as_upload,
    hostile_requests,
    measured,
    most_memory,
    picture_form,
)
from tests.support.listening import listening
from tests.support.paths import DATA
from tests.support.pictures import picture_file
from tests.support.receivers import answering, holding, receiver
from tests.support.servers import Servers, embedded_servers
from tests.support.service import RunningApi, RunningService, running_api, running_service
from tests.support.slow_clients import LEFT_SECONDS, SLOW_CLIENTS, SlowClient, attacking

_PHOTO = DATA / "coffee.jpg"
#: Before, and during each attack; every connection that is to be closed was closed once by then.
_QUIET_SECONDS, _ATTACK_SECONDS = 4, 12
#: Pictures of the other owner beside each attack.
_PICTURES = 20
#: Before each of these attacks.
_QUIET_PICTURES = 8
#: What the model takes for a picture there.
_MODEL_MS = 200


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, each row as soon as it is there."""
    for row in chain((head, ["---"] * len(head)), rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def environment(servers: Servers, **more: str) -> dict[str, str]:
    """Return the settings of a service on these servers, with keys."""
    return {
        "RMBG_REDIS_URL": servers.new_database(),
        "RMBG_S3_ENDPOINT": servers.s3.endpoint,
        "RMBG_S3_ACCESS_KEY": servers.s3.access_key,
        "RMBG_S3_SECRET_KEY": servers.s3.secret_key,
        "RMBG_S3_BUCKET": f"{servers.bucket}-hostile",
        "RMBG_MODEL": "u2netp",
        "RMBG_HOST": "hostile",
        "RMBG_URL_ALLOW": "127.0.0.1",
        "RMBG_AUTH": "on",
        **more,
    }


def new_key(env: dict[str, str], name: str, **facts: Any) -> str:  # noqa: ANN401 - as of a key
    """Return a new key of the service with these settings."""
    with connect(env["RMBG_REDIS_URL"]) as client:
        return ApiKeys(client).add(name, **facts)[1]


@dataclass(slots=True)
class Honest:
    """Somebody who submits a picture, and looks whether the API lives, again and again.

    Attributes:
        submissions: seconds of each.
        health: seconds of each look.
        processor: share of a processor that the API took.
    """

    api: RunningApi
    key: str
    submissions: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    processor: float = 0.0

    def ask_for(self, seconds: float) -> None:
        """Ask all the time, each time by a new connection."""
        began, used = time.monotonic(), processor_seconds(self.api.pid)
        while time.monotonic() - began < seconds:
            self.submissions.append(self._submit())
            self.health.append(self._timed("GET", "/healthz/live", 200))
            time.sleep(0.03)
        self.processor = (processor_seconds(self.api.pid) - used) / (time.monotonic() - began)

    def _submit(self) -> float:
        fields = {"image": ("a.jpg", _PHOTO.read_bytes()), "cache": "false"}
        return self._timed("POST", "/api/v1/remove-bg", 202, fields=fields)

    def _timed(self, method: str, path: str, status: int, **more: object) -> float:
        with urllib3.PoolManager(retries=False, timeout=60) as pool:
            began = time.perf_counter()
            headers = {"X-API-Key": self.key}
            answer = pool.request(method, self.api.url + path, headers=headers, **more)  # type: ignore[arg-type]
            if answer.status != status:
                sys.exit(f"{method} {path}: {answer.status} {answer.data.decode()}")
            return time.perf_counter() - began


def processes(pid: int) -> list[psutil.Process]:
    """Return the processes below gunicorn's parent, or a worker's."""
    return psutil.Process(pid).children()


def processor_seconds(pid: int) -> float:
    """Return the processor time of the API's processes."""
    times = [each.cpu_times() for each in processes(pid)]
    return sum(each.user + each.system for each in times)


def ms(seconds: Sequence[float], percent: int) -> str:
    """Return a percentile in milliseconds."""
    return f"{statistics.quantiles(seconds, n=100)[percent - 1] * 1000:.0f}"


def measure_clients(servers: Servers, folder: Path) -> None:
    """Print how long honest requests take while each kind of slow client attacks."""
    print("Slow clients; times in ms, quiet → under attack. Targets: submissions p95 300 ms, ")
    print("`/healthz/live` p95 200 ms, no restart, no connection left.\n")
    head = (
        "attack",
        "submission p50 / p95, quiet",
        "under attack",
        "`/healthz/live` p95",
        "processors of the API",
        "restarts",
        "closed with",
        f"left after {LEFT_SECONDS:g} s",
    )
    markdown(head, _attacked(environment(servers, RMBG_API_WORKERS="2"), folder))


def _attacked(env: dict[str, str], folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the row of each kind of slow client."""
    with running_api(env, folder / "api.log") as api:
        keys = [new_key(env, name) for name in ("honest", "attacker")]
        Honest(api, keys[0]).ask_for(2)
        before = {each.pid for each in processes(api.pid)}
        for name, kind in SLOW_CLIENTS.items():
            quiet, attacked = Honest(api, keys[0]), Honest(api, keys[0])
            quiet.ask_for(_QUIET_SECONDS)
            with attacking(api.port, keys[1], {name: kind}) as attack:
                attacked.ask_for(_ATTACK_SECONDS)
                outcome = attack.stop()[name]
            restarts = len({each.pid for each in processes(api.pid)} - before)
            yield (
                f"{name}, {outcome.most} at once",
                *(
                    f"{ms(each.submissions, 50)} / {ms(each.submissions, 95)}"
                    for each in (quiet, attacked)
                ),
                f"{ms(quiet.health, 95)} → {ms(attacked.health, 95)}",
                f"{quiet.processor:.2f} → {attacked.processor:.2f}",
                f"{restarts}",
                f"{', '.join(outcome.statuses)} after {outcome.seconds:g} s",
                f"{outcome.left}",
            )


def measure_inputs(servers: Servers, folder: Path) -> None:
    """Print what each input of much work takes of the API, and of the worker if it is accepted."""
    print("Inputs of much work. Targets: 1 s of the API's processor time, 50 MB of its memory.\n")
    env = environment(servers, RMBG_API_WORKERS="1", RMBG_THREADS="2")
    with running_service(env, folder, model_app="tasks.app") as service:
        key = new_key(env, "attacker")
        plain = picture_form(_PHOTO.read_bytes())
        for _ in range(10):
            _cost(service, plain, key)
        # Of the worker, the process with the model; its decoder may be replaced.
        api, worker = processes(service.api.pid), processes(service.model_worker_pid)
        before = [most_memory(each) for each in (api, worker)]
        head = ("input", "bytes", "answer", "API, s", "API, MB", "task", "worker, s", "worker, MB")
        inputs = _inputs(service.api.port, key)
        markdown(head, ((name, *_cost(service, request, key)) for name, request in inputs))
        after = [most_memory(each) for each in (api, worker)]
        same = [api, worker] == [processes(service.api.pid), processes(service.model_worker_pid)]
    for name, old, new in zip(("API", "model worker"), before, after, strict=True):
        change = f"{old / MB:.0f} MB before, {new / MB:.0f} MB after all of them"
        print(f"- resident memory of the {name}: {change} ({new / old - 1:+.0%}; target 20 %)")
    print(f"- {'no process was' if same else 'SOME PROCESSES WERE'} replaced\n")


def _inputs(port: int, key: str) -> Iterator[tuple[str, HostileRequest]]:
    yield "a plain photo", picture_form(_PHOTO.read_bytes())
    yield from hostile_requests()
    name = "a TIFF of tags at both ends"
    yield f"{name}, as an upload", as_upload(FILES[name](), port, key)


def _family(pid: int) -> list[psutil.Process]:
    """Return the processes below a worker's parent: the one with the model, and its decoder."""
    return psutil.Process(pid).children(recursive=True)


def _end_of(service: RunningService, task_id: str) -> Job:
    """Return a task's job once it has ended."""
    while not (job := service.job(task_id)).status.final:
        time.sleep(0.05)
    return job


def _cost(service: RunningService, request: HostileRequest, key: str) -> tuple[str, ...]:
    """Send a request, wait for its task, if any, and return the cells of its row."""
    body = request.body()
    request = replace(request, body=lambda: body)
    worker = _family(service.model_worker_pid)
    with measured(worker) as at_worker:
        with measured(processes(service.api.pid)) as at_api:
            status, answer = request.send(service.api.port, key)
        made = json.loads(answer)["data"] if status == HTTPStatus.ACCEPTED else {}
        end = _end_of(service, made["task_id"]) if "task_id" in made else None
    return (
        f"{len(body):,}",
        f"{status}",
        f"{at_api.seconds:.2f}",
        f"{at_api.memory / MB:.0f}",
        "–" if end is None else (end.error.type if end.error else end.status),
        "–" if end is None else f"{at_worker.seconds:.1f}",
        "–" if end is None else f"{at_worker.memory / MB:.0f}",
    )


@dataclass(slots=True)
class Served:
    """Seconds that each picture of an owner took: to be accepted, and until its webhook came."""

    submissions: list[float] = field(default_factory=list)
    webhooks: list[float] = field(default_factory=list)


def _serve(service: RunningService, key: str, pictures: int = _PICTURES) -> Served:
    """Submit pictures one after the other, each once the last one's webhook has come."""
    served, photo = Served(), _PHOTO.read_bytes()
    with receiver(answering(200)) as got:
        for number in range(pictures):
            began = time.perf_counter()
            _submit(service, key, photo, webhook_url=got.url)
            served.submissions.append(time.perf_counter() - began)
            if not got.wait_for(number + 1, 120):
                sys.exit(f"no webhook came within 120 s\n{service.logged()}")
            served.webhooks.append(time.perf_counter() - began)
    return served


def _submit(service: RunningService, key: str, picture: bytes, **fields: str) -> str:
    """Submit a picture that is accepted, and return its task's id."""
    answer = _ask(service, key, "POST", "/api/v1/remove-bg", picture, **fields)
    return str(answer["data"]["task_id"])


def _ask(
    service: RunningService, key: str, method: str, path: str, picture: bytes = b"", **fields: str
) -> dict[str, Any]:
    form = {"image": ("a.jpg", picture), "cache": "false", **fields} if picture else None
    with urllib3.PoolManager(retries=False, timeout=60) as pool:
        headers = {"X-API-Key": key, "Tus-Resumable": "1.0.0", "Upload-Length": "1000000"}
        answer = pool.request(method, service.url + path, fields=form, headers=headers)
        return dict(answer.json()) if answer.data else {}


#: An attack of an owner's: yields the errors that it is answered, which are complete at the end.
OwnersAttack = Callable[[RunningService, str], AbstractContextManager[set[str]]]


def _repeated(ask: Callable[[RunningService, str], dict[str, Any]]) -> OwnersAttack:
    """Ask until the limit is reached, and then 25 times a second at most."""

    @contextmanager
    def attack(service: RunningService, key: str) -> Iterator[set[str]]:
        errors, stopped = set[str](), threading.Event()

        def repeat() -> None:
            while not stopped.wait(0.04 if errors else 0):
                errors.update(filter(None, [ask(service, key).get("error", {}).get("type")]))

        thread = threading.Thread(target=repeat)
        thread.start()
        while not errors and thread.is_alive():
            time.sleep(0.05)
        try:
            yield errors
        finally:
            stopped.set()
            thread.join()

    return attack


def _held(
    count: int, head: str, body: str = "", *, reads: bool = True, again: int = 20
) -> OwnersAttack:
    """Keep `count` requests open: one takes the place of each that ends, up to `again` in 50 ms."""

    @contextmanager
    def attack(service: RunningService, key: str) -> Iterator[set[str]]:
        errors = set[str]()
        task = _submit(service, key, _large_photo())
        waiting = _job_of_nobody(service, key)
        with listening(lambda client: client.recv(1) and time.sleep(60)) as site:
            content = body.format(site=site)
            lines = head.format(task=task, waiting=waiting)
            begin = f"{lines}\r\nHost: x\r\nX-API-Key: {{key}}\r\nConnection: close\r\n"
            begin += f"Content-Length: {len(content)}\r\n" * bool(content)
            kind = SlowClient(count, f"{begin}\r\n{content}", reads=reads, again=again)
            with attacking(service.api.port, key, {"requests": kind}) as held:
                yield errors
                errors.update(held.stop(seconds=0)["requests"].errors)
        service.store.cancel(waiting)

    return attack


def _job_of_nobody(service: RunningService, key: str) -> str:
    """Record a job of an owner's for which there is no worker, and return its id."""
    with connect(service.env["RMBG_REDIS_URL"]) as client:
        owner = ApiKeys(client).find(key)
    now, task_id = time.time(), new_task_id()
    job = Job(task_id, "none", "model.none", original_key(task_id), now, now + 3600)
    service.store.create(replace(job, owner=owner.id if owner else ""))
    return task_id


def _slow_receivers(*answers: int, **headers: str) -> OwnersAttack:
    """Have 40 webhooks sent to a receiver that holds each, or answers like that."""

    @contextmanager
    def attack(service: RunningService, key: str) -> Iterator[set[str]]:
        with receiver(answering(*answers, **headers) if answers else holding()) as got:
            for _ in range(40):
                _submit(service, key, _PHOTO.read_bytes(), webhook_url=got.url)
            yield set()

    return attack


_JSON_HEAD = "POST /api/v1/remove-bg HTTP/1.1\r\nContent-Type: application/json"
OWNERS: dict[str, tuple[dict[str, float], OwnersAttack]] = {
    "pictures a minute": (
        {"rate_per_minute": 5},
        _repeated(lambda s, key: _ask(s, key, "POST", "/api/v1/remove-bg", _PHOTO.read_bytes())),
    ),
    "bytes stored": (
        {"max_bytes": 10**6},
        _repeated(lambda s, key: _ask(s, key, "POST", "/api/v1/remove-bg", _PHOTO.read_bytes())),
    ),
    "unfinished uploads": (
        {"max_uploads": 5},
        _repeated(lambda s, key: _ask(s, key, "POST", "/api/v1/uploads")),
    ),
    "pending jobs": (
        {"max_pending": 20},
        _repeated(lambda s, key: _ask(s, key, "POST", "/api/v1/remove-bg", _PHOTO.read_bytes())),
    ),
    "pending jobs of priority high": (
        {"max_pending": 20},
        _repeated(
            lambda s, key: _ask(
                s, key, "POST", "/api/v1/remove-bg", _PHOTO.read_bytes(), priority="high"
            )
        ),
    ),
    "long polls": ({}, _held(200, "GET /api/v1/tasks/{waiting}?wait=60 HTTP/1.1")),
    "event streams": ({}, _held(200, "GET /api/v1/tasks/{waiting}/events HTTP/1.1")),
    "cheap requests, on and on": ({}, _held(200, "GET /api/v1/tasks?limit=1 HTTP/1.1")),
    "requests without a route, on and on": ({}, _held(200, "GET /api/v2/tasks HTTP/1.1")),
    "pictures on a slow site": (
        {},
        _held(60, _JSON_HEAD, '{{"image_url":"http://127.0.0.1:{site}/a"}}'),
    ),
    "downloads that are not read": (
        {},
        _held(300, "GET /api/v1/tasks/{task}/original HTTP/1.1", reads=False),
    ),
    "bodies that never come": (
        {},
        _held(1200, "POST /api/v1/remove-bg HTTP/1.1\r\nContent-Length: 5000000"),
    ),
    "webhooks to silent receivers": ({}, _slow_receivers()),
    "webhooks refused for 15 minutes": ({}, _slow_receivers(503, **{"Retry-After": "900"})),
}


def measure_owners(servers: Servers, folder: Path) -> None:
    """Print how long another owner's pictures take while one is driven against each limit."""
    print("Another owner's pictures while one is driven against a limit; ms, quiet → meanwhile, ")
    print(f"medians of {_QUIET_PICTURES} and {_PICTURES}. Target: 2 × of the quiet figure.\n")
    models = folder / "models"
    models.mkdir()
    model = get_spec("u2netp")
    fetched = fetch_model(model, Settings.load().model_dir)
    (models / model.file_name).symlink_to(fetched)
    (models / SLEEP_FILE).write_text(f"{_MODEL_MS}")
    env = environment(servers, RMBG_API_WORKERS="2", RMBG_MODEL_DIR=str(models))
    markdown(("limit", "refused with", "submission", "webhook"), _driven(env, folder))


def _driven(env: dict[str, str], folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the row of each limit, where the model of the worker sleeps: it is not measured."""
    with running_service(env, folder, model_app="benchmarks.pretend_worker") as service:
        honest = new_key(env, "honest")
        _serve(service, honest, 3)
        for name, (facts, attack) in OWNERS.items():
            quiet = _serve(service, honest, _QUIET_PICTURES)
            with attack(service, new_key(env, name, **facts)) as errors:
                served = _serve(service, honest)
            _await_idle(service)
            yield (
                name,
                ", ".join(sorted(errors)) or "–",
                _compared(quiet.submissions, served.submissions),
                _compared(quiet.webhooks, served.webhooks),
            )


def _compared(quiet: Sequence[float], meanwhile: Sequence[float]) -> str:
    before, now = statistics.median(quiet), statistics.median(meanwhile)
    return f"{before * 1000:.0f} → {now * 1000:.0f} ({now / before:.1f} ×)"


def _await_idle(service: RunningService) -> None:
    """Wait until no job is queued or running."""
    while service.store.ids(Status.QUEUED) or service.store.ids(Status.PROCESSING):
        time.sleep(0.1)


def _large_photo() -> bytes:
    """Return a photo of several megabytes."""
    return picture_file(Image.effect_noise((1600, 1600), 80).convert("RGB"), "JPEG", quality=95)


PARTS = {"clients": measure_clients, "inputs": measure_inputs, "owners": measure_owners}


def main(*names: str) -> None:
    """Measure the parts of these names, or all."""
    print(f"{machine()}, load {psutil.getloadavg()[0]:.1f} at the beginning.\n")
    with tempfile.TemporaryDirectory() as name, embedded_servers() as servers:
        for part in names or PARTS:
            folder = Path(name) / part
            folder.mkdir()
            PARTS[part](servers, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
