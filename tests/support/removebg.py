"""The service with a model whose subject is known, and two API processes in front of it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from deploy.local import probes
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from deploy.local.service import Service
from tasks.redis_client import connect
from tests.support.paths import ROOT
from tests.support.servers import running
from tests.support.subject_worker import NOTES

_HOST = "removebg"
#: Of the hasty address, where the wait is short.
RATE = 120


@dataclass(frozen=True)
class RemoveBg:
    """Where the service is."""

    #: With everything as it comes.
    url: str
    #: Waits for 1 s only, and takes `RATE` megapixels a minute.
    hasty_url: str
    redis: Redis
    notes: Path

    def seen(self) -> list[str]:
        """The sizes of the pictures that the model has looked at."""
        return self.notes.read_text().split() if self.notes.exists() else []


@contextmanager
def removebg_service(environment: dict[str, str], folder: Path) -> Iterator[RemoveBg]:
    """All of it, until the block ends."""
    redis_url = environment["RMBG_REDIS_URL"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = environment | {
        "RMBG_HOST": _HOST,
        "RMBG_AUTH": "off",
        "RMBG_MAX_IMAGE_MB": "4",
        "RMBG_URL_ALLOW": "127.0.0.1",
        "PYTHONPATH": path,
        NOTES: str(folder / "notes"),
    }
    hasty = env | {"RMBG_REMOVEBG_MEGAPIXELS_PER_MINUTE": str(RATE)}
    gpu, io = f"gpu0@{_HOST}", f"io@{_HOST}"
    with ExitStack() as stack:
        ports = stack.enter_context(reserved_ports())[:2]
        for service in (
            _celery(gpu, f"gpu.{_HOST}.0,model.u2netp", env, probes.worker_ready(redis_url, gpu)),
            _celery(
                io, "webhooks", env, probes.worker_ready(redis_url, gpu), "-P", "threads", "-c", "8"
            ),
        ):
            stack.enter_context(running(service, folder / f"{service.name}.log", seconds=60))
        apps = (("api.app", env), ("tests.support.hasty_api", hasty))
        for port, (module, own) in zip(ports, apps, strict=True):
            api = _api(port, module, own)
            stack.enter_context(running(api, folder / f"api-{port}.log", seconds=60))
        url, hasty_url = (f"http://127.0.0.1:{port}" for port in ports)
        redis = stack.enter_context(connect(redis_url))
        yield RemoveBg(url, hasty_url, redis, folder / "notes")


def _celery(
    name: str, queues: str, env: dict[str, str], probe: local_service.Probe, *pool: str
) -> Service:
    command = (
        local_service.script("celery"),
        "-A",
        "tests.support.subject_app",
        "worker",
        "-n",
        name,
        "-Q",
        queues,
    )
    return Service(name, (*command, *pool), env=env, probe=probe, grace=20)


def _api(port: int, module: str, env: dict[str, str]) -> Service:
    address = f"127.0.0.1:{port}"
    command = (local_service.script("gunicorn"), "-c", "python:api.gunicorn_conf", "-b", address)
    return Service(
        f"api-{port}",
        (*command, f"{module}:create_app()"),
        env=env,
        probe=probes.http_ok(f"http://{address}/healthz/ready"),
    )
