"""The real service: gunicorn, a model worker and an I/O worker, each its own process."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.client import ServiceClient
from deploy.local import binaries, probes
from deploy.local.ports import reserved_ports
from deploy.local.running import S3Address, running
from deploy.local.services import Service
from inference.models.fetch import fetch_model
from inference.models.registry import get_spec
from tasks.settings import Settings
from tasks.store import JobStore, connect

HOST = "acceptance"


@dataclass(frozen=True)
class RunningService:
    """Where the service is, and a way to look behind it."""

    url: str
    client: ServiceClient
    store: JobStore
    model_worker_pid: int


@pytest.fixture(scope="session")
def service_environment(redis_url: str, s3: S3Address) -> dict[str, str]:
    settings = Settings.load()
    fetch_model(get_spec("u2netp"), settings.model_dir)
    return {
        "RMBG_REDIS_URL": redis_url,
        "RMBG_S3_ENDPOINT": s3.endpoint,
        "RMBG_S3_ACCESS_KEY": s3.access_key,
        "RMBG_S3_SECRET_KEY": s3.secret_key,
        "RMBG_MODEL": "u2netp",
        "RMBG_MODEL_DIR": str(settings.model_dir),
        "RMBG_HOST": HOST,
        "RMBG_THREADS": "2",
        "RMBG_API_WORKERS": "1",
    }


def worker_service(
    name: str, queues: str, env: dict[str, str], probe: probes.Probe, *pool: str
) -> Service:
    command = (binaries.script("celery"), "-A", "tasks.app", "worker", "-n", name, "-Q", queues)
    return Service(name, (*command, *pool), env=env, probe=probe, grace=20)


@pytest.fixture(scope="session")
def service(
    service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    env, logs = service_environment, tmp_path_factory.mktemp("logs")
    redis_url = env["RMBG_REDIS_URL"]
    with ExitStack() as stack:
        port = stack.enter_context(reserved_ports())[0]
        url = f"http://127.0.0.1:{port}"
        io_worker = f"io@{HOST}"
        stack.enter_context(
            running(
                worker_service(
                    io_worker,
                    "io",
                    env,
                    probes.worker_online(Settings.load(redis_url=redis_url), io_worker),
                    "-P",
                    "threads",
                ),
                logs / "io.log",
            )
        )
        gpu = f"gpu0@{HOST}"
        model_worker = stack.enter_context(
            running(
                worker_service(
                    gpu, f"gpu.{HOST}.0,model.u2netp", env, probes.worker_ready(redis_url, gpu)
                ),
                logs / "gpu0.log",
                seconds=60,
            )
        )
        stack.enter_context(running(api_service(port, env), logs / "api.log"))
        client = stack.enter_context(ServiceClient(url))
        yield RunningService(url, client, JobStore(connect(redis_url)), model_worker.pid)


def api_service(port: int, env: dict[str, str]) -> Service:
    address = f"127.0.0.1:{port}"
    return Service(
        "api",
        (
            binaries.script("gunicorn"),
            "-c",
            "python:api.gunicorn_conf",
            "-b",
            address,
            "api.app:create_app()",
        ),
        env=env,
        probe=probes.http_ok(f"http://{address}/healthz/ready"),
    )


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    return sorted((Path(__file__).parents[1] / "data").glob("*.jpg"))
