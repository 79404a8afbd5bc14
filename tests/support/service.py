"""The real service: gunicorn, a model worker and an I/O worker, each its own process."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import urllib3
from urllib3 import BaseHTTPResponse

from api.services import Services
from api.settings import ApiSettings
from deploy.client import ServiceClient
from deploy.local import probes, service
from deploy.local.ports import reserved_ports
from deploy.local.service import Service, script
from tasks.jobs.job import Job, Status
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.worker_registry import WorkerRegistry
from tests.support.api import Api
from tests.support.jobs import recorded
from tests.support.paths import HELD, REMEMBERED, ROOT
from tests.support.programs import run_program
from tests.support.servers import running

HOST = "acceptance"
WORKER = f"gpu0@{HOST}"
#: Whose times a task's record has.
STAGES = ("queue", "fetch", "decode", "preprocess", "inference", "compose", "encode", "store")
IO_POOL = ("-P", "threads", "-c", "32")

T = TypeVar("T")


def eventually(
    what: str, ask: Callable[[], T], *, seconds: float = 60, show: Callable[[], str] = str
) -> T:
    """Return the first answer that counts as true; if none comes, fail with the end of a text."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {what}\n{show()[-8000:]}")
        time.sleep(0.02)
    return answer


def settings_of(env: dict[str, str], **changes: object) -> ApiSettings:
    """Return what a process of the service would load in this environment."""
    own = {name.removeprefix("RMBG_").lower(): value for name, value in env.items()}
    return ApiSettings.load(**{**own, **changes})


def api_here(env: dict[str, str], **changes: object) -> Api:
    """Return an API in this process beside a service of this environment."""
    return Api.on(Services.from_settings(settings_of(env, **changes)))


@dataclass(frozen=True)
class RunningApi:
    """The API's processes: gunicorn's parent, and its children."""

    url: str
    pid: int
    env: dict[str, str]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def submit(self, picture: bytes, key: str = "", **headers: str) -> BaseHTTPResponse:
        """Submit a picture, whatever the cache knows."""
        return urllib3.request(
            "POST",
            f"{self.url}/api/v1/remove-bg",
            fields={"image": ("a.jpg", picture), "cache": "false"},
            headers={"X-API-Key": key, **headers},
            retries=False,
            timeout=120,
        )


@dataclass(frozen=True)
class RunningService:
    """Where the service is, and a way to look behind it."""

    env: dict[str, str]
    api: RunningApi
    client: ServiceClient
    store: JobStore
    registry: WorkerRegistry
    model_worker_pid: int
    #: Where each process shows its metrics, and what each wrote.
    metrics: dict[str, str]
    logs: Path
    #: Where the model worker finds the mattes that it remembers.
    mattes: Path

    @property
    def url(self) -> str:
        return self.api.url

    def job(self, task_id: str) -> Job:
        return recorded(self.store, task_id)

    def logged(self) -> str:
        return "\n".join(log.read_text() for log in sorted(self.logs.glob("*.log")))

    @contextmanager
    def begun(
        self, photo: Path, headers: Mapping[str, str] | None = None, **more: str
    ) -> Iterator[str]:
        """Submit a picture, and yield its task once its job runs; it goes on after the block."""
        fields = {"image": (photo.name, photo.read_bytes()), "cache": "false", **more}
        hold = self.mattes / HELD
        hold.touch()
        try:
            path = "/api/v1/remove-bg"
            answer = self.client.request("POST", path, fields=fields, headers=headers)
            task_id = str(answer["task_id"])
            eventually(
                "a worker's beginning",
                lambda: self.job(task_id).status is Status.PROCESSING,
                show=self.logged,
            )
            yield task_id
        finally:
            hold.unlink()

    def kill_model_process(self) -> None:
        """Kill the model worker's child, which has the model."""
        children = psutil.Process(self.model_worker_pid).children()
        child = max(children, key=lambda each: each.memory_info().rss)
        os.kill(child.pid, signal.SIGKILL)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the project on the service's settings."""
        return run_program(script(program), *arguments, env={**os.environ, **self.env})


def worker_service(
    name: str,
    queues: str,
    env: dict[str, str],
    probe: service.Probe,
    *pool: str,
    app: str = "tasks.app",
) -> Service:
    command = (script("celery"), "-A", app, "worker", "-n", name)
    return Service(name, (*command, "-Q", queues, *pool), env=env, probe=probe, grace=20)


@contextmanager
def running_service(
    env: dict[str, str], logs: Path, *, model_app: str = "tests.support.remembering_worker"
) -> Iterator[RunningService]:
    """An I/O worker, a model worker and the API with these settings, until the block ends.

    Args:
        env: the settings.
        logs: folder of the processes' logs.
        model_app: module of the model worker's Celery application; by default that of the real
            model, which remembers what it has seen.
    """
    settings, host = settings_of(env), env["RMBG_HOST"]
    mattes = logs / "mattes"
    mattes.mkdir()
    remembers = {REMEMBERED: str(mattes), "PYTHONPATH": str(ROOT)}
    io_worker, gpu = f"io@{host}", f"gpu0@{host}"

    def with_port(port: int) -> dict[str, str]:
        return {**env, "RMBG_METRICS_PORT": str(port)}

    with ExitStack() as stack:
        gpu_port, io_port, *_ = stack.enter_context(reserved_ports())
        online = probes.worker_online(settings, io_worker)
        stack.enter_context(
            running(
                worker_service(io_worker, "webhooks", with_port(io_port), online, *IO_POOL),
                logs / "io.log",
            )
        )
        queues = f"gpu.{host}.0,model.u2netp"
        ready = probes.worker_ready(settings.redis_address, gpu)
        model_worker = stack.enter_context(
            running(
                worker_service(gpu, queues, with_port(gpu_port) | remembers, ready, app=model_app),
                logs / "gpu0.log",
                seconds=60,
            )
        )
        api = stack.enter_context(running_api(env, logs / "api.log", ready="/healthz/ready"))
        client = stack.enter_context(ServiceClient(api.url))
        redis = connect(settings.redis_address)
        yield RunningService(
            env,
            api,
            client,
            JobStore(redis),
            WorkerRegistry(redis),
            model_worker.pid,
            {
                "api": f"{api.url}/metrics",
                "gpu0": f"http://127.0.0.1:{gpu_port}/metrics",
                "io": f"http://127.0.0.1:{io_port}/metrics",
            },
            logs,
            mattes,
        )


@contextmanager
def running_api(
    env: dict[str, str], log: Path, *, ready: str = "/healthz/live"
) -> Iterator[RunningApi]:
    """The API alone, which needs no worker to be alive."""
    with reserved_ports() as ports:
        url = f"http://127.0.0.1:{ports[0]}"
        api = api_service(ports[0], env, probes.http_ok(f"{url}{ready}"))
        with running(api, log) as process:
            yield RunningApi(url, process.pid, env, log)


def api_service(port: int, env: dict[str, str], probe: service.Probe | None = None) -> Service:
    address = f"127.0.0.1:{port}"
    command = (script("gunicorn"), "-c", "python:api.gunicorn_conf", "-b", address)
    return Service(
        "api",
        (*command, "api.app:create_app()"),
        env=env,
        probe=probe or probes.http_ok(f"http://{address}/healthz/ready"),
    )
