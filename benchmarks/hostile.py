"""What hostile clients cost the others: attacks at full size, honest submissions beside them.

Starts servers, APIs and workers of its own on free ports of loopback, attacks them, and prints
Markdown. Takes less than 8 minutes; `python -m benchmarks.hostile clients` measures one part.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path

import psutil
import urllib3

from benchmarks.machine import machine
from tasks.api_keys import ApiKeys
from tasks.jobs.job import Job
from tasks.redis_client import connect
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
from tests.support.paths import DATA
from tests.support.servers import Servers, embedded_servers
from tests.support.service import RunningApi, RunningService, running_api, running_service
from tests.support.slow_clients import LEFT_SECONDS, SLOW_CLIENTS, attacking

_PHOTO = DATA / "coffee.jpg"
#: Before, and during each attack; every connection that is to be closed was closed once by then.
_QUIET_SECONDS, _ATTACK_SECONDS = 5, 14


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    for row in (head, ["---"] * len(head), *rows):
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


def new_key(env: dict[str, str], name: str) -> str:
    """Return a new key of the service with these settings."""
    with connect(env["RMBG_REDIS_URL"]) as client:
        return ApiKeys(client).add(name)[1]


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
    env = environment(servers, RMBG_API_WORKERS="2")
    rows = []
    with running_api(env, folder / "api.log") as api:
        keys = [new_key(env, name) for name in ("honest", "attacker")]
        Honest(api, keys[0]).ask_for(2)
        before = {each.pid for each in processes(api.pid)}
        for name in SLOW_CLIENTS:
            quiet, attacked = Honest(api, keys[0]), Honest(api, keys[0])
            quiet.ask_for(_QUIET_SECONDS)
            with attacking(api.port, keys[1], name) as attack:
                attacked.ask_for(_ATTACK_SECONDS)
                outcome = attack.stop()[name]
            restarts = len({each.pid for each in processes(api.pid)} - before)
            rows.append(
                (
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
            )
    print("Slow clients; times in ms, quiet → under attack. Targets: submissions p95 300 ms, ")
    print("`/healthz/live` p95 200 ms, no restart, no connection left.\n")
    markdown(
        (
            "attack",
            "submission p50 / p95, quiet",
            "under attack",
            "`/healthz/live` p95",
            "processors of the API",
            "restarts",
            "closed with",
            f"left after {LEFT_SECONDS:g} s",
        ),
        rows,
    )


def measure_inputs(servers: Servers, folder: Path) -> None:
    """Print what each input of much work takes of the API, and of the worker if it is accepted."""
    env = environment(servers, RMBG_API_WORKERS="1", RMBG_THREADS="2")
    with running_service(env, folder) as service:
        key = new_key(env, "attacker")
        plain = picture_form(_PHOTO.read_bytes())
        for _ in range(10):
            _cost(service, plain, key)
        # Of the worker, the process with the model; its decoder may be replaced.
        api, worker = processes(service.api.pid), processes(service.model_worker_pid)
        before = [most_memory(each) for each in (api, worker)]
        rows = [
            (name, *_cost(service, request, key))
            for name, request in _inputs(service.api.port, key)
        ]
        after = [most_memory(each) for each in (api, worker)]
        same = [api, worker] == [processes(service.api.pid), processes(service.model_worker_pid)]
    print("Inputs of much work. Targets: 1 s of the API's processor time, 50 MB of its memory.\n")
    markdown(
        ("input", "bytes", "answer", "API, s", "API, MB", "task", "worker, s", "worker, MB"), rows
    )
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


PARTS = {"clients": measure_clients, "inputs": measure_inputs}


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
