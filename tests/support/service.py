"""The real service: gunicorn, a model worker and an I/O worker, each its own process."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.client import ServiceClient
from deploy.local import probes, service
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from deploy.local.service import Service
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.servers import running

HOST = "acceptance"
IO_POOL = ("-P", "threads", "-c", "32")


@dataclass(frozen=True)
class RunningService:
    """Where the service is, and a way to look behind it."""

    env: dict[str, str]
    url: str
    client: ServiceClient
    store: JobStore
    registry: WorkerRegistry
    model_worker_pid: int
    #: Where each process shows its metrics, and what each wrote.
    metrics: dict[str, str]
    logs: Path


def worker_service(
    name: str, queues: str, env: dict[str, str], probe: service.Probe, *pool: str
) -> Service:
    command = (
        local_service.script("celery"),
        "-A",
        "tasks.app",
        "worker",
        "-n",
        name,
        "-Q",
        queues,
    )
    return Service(name, (*command, *pool), env=env, probe=probe, grace=20)


@contextmanager
def running_service(env: dict[str, str], logs: Path) -> Iterator[RunningService]:
    """An I/O worker, a model worker and the API with these settings, until the block ends."""
    redis_url, host = env["RMBG_REDIS_URL"], env["RMBG_HOST"]
    io_worker, gpu = f"io@{host}", f"gpu0@{host}"

    def with_port(port: int) -> dict[str, str]:
        return {**env, "RMBG_METRICS_PORT": str(port)}

    with ExitStack() as stack:
        port, gpu_port, io_port, *_ = stack.enter_context(reserved_ports())
        url = f"http://127.0.0.1:{port}"
        online = probes.worker_online(Settings.load(redis_url=redis_url), io_worker)
        stack.enter_context(
            running(
                worker_service(io_worker, "webhooks", with_port(io_port), online, *IO_POOL),
                logs / "io.log",
            )
        )
        queues = f"gpu.{host}.0,model.u2netp"
        model_worker = stack.enter_context(
            running(
                worker_service(
                    gpu, queues, with_port(gpu_port), probes.worker_ready(redis_url, gpu)
                ),
                logs / "gpu0.log",
                seconds=60,
            )
        )
        stack.enter_context(running(api_service(port, env), logs / "api.log"))
        client = stack.enter_context(ServiceClient(url))
        redis = connect(redis_url)
        yield RunningService(
            env,
            url,
            client,
            JobStore(redis),
            WorkerRegistry(redis),
            model_worker.pid,
            {
                "api": f"{url}/metrics",
                "gpu0": f"http://127.0.0.1:{gpu_port}/metrics",
                "io": f"http://127.0.0.1:{io_port}/metrics",
            },
            logs,
        )


def api_service(port: int, env: dict[str, str], probe: service.Probe | None = None) -> Service:
    address = f"127.0.0.1:{port}"
    return Service(
        "api",
        (
            local_service.script("gunicorn"),
            "-c",
            "python:api.gunicorn_conf",
            "-b",
            address,
            "api.app:create_app()",
        ),
        env=env,
        probe=probe or probes.http_ok(f"http://{address}/healthz/ready"),
    )
