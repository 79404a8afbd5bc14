"""The services that make up `rmbg up`, with their commands, environment and ports."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from deploy.local import probes, service
from deploy.local.data_folder import load_credential
from deploy.local.ports import LOOPBACK, require_free
from deploy.local.servers import StorePorts, store_service, valkey_service, valkey_url
from deploy.local.service import NotReadyError, Service, SetupError
from tasks.jobs import routing
from tasks.settings import Settings

#: Seconds from the end of a worker's own grace time, when its job is back in the queue, to SIGKILL.
_WORKER_LEAD_SECONDS: Final = 10.0
#: A request that still waits for its task is cut off after this time.
_API_GRACE_SECONDS: Final = 5.0
#: Flower has nothing to save.
_FLOWER_GRACE_SECONDS: Final = 3.0
_FLOWER_TASKS: Final = 2000
#: The API stops first, so that no job is submitted any more; the servers have a later stage.
_API_STAGE, _FLOWER_STAGE, _WORKER_STAGE = range(3)


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `rmbg up`; a port of 0 means any free one.

    Attributes:
        port: of the API.
        flower_port: of Flower; None to run without it.
        data: folder of jobs, pictures and passwords.
        workers: number of model workers.
        model: the model they serve; None for RMBG_MODEL.
        redis_url: a Redis to use instead of an embedded Valkey; None for RMBG_REDIS_URL, if set.
        s3_endpoint: an object store to use instead of an embedded SeaweedFS; None for
            RMBG_S3_ENDPOINT, if set. Its keys come from the settings.
        start_seconds: how long the whole start may take.
    """

    port: int = 8000
    flower_port: int | None = 5555
    data: Path = Path("data")
    workers: int = 1
    model: str | None = None
    redis_url: str | None = None
    s3_endpoint: str | None = None
    start_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of all services.

    Attributes:
        api: of the API.
        flower: of Flower; None if it is not run.
        valkey: of the embedded Valkey.
        store: of the embedded SeaweedFS.
        metrics: of the workers, the I/O worker's first; a worker beyond them has none.
    """

    api: int
    flower: int | None
    valkey: int
    store: StorePorts
    metrics: tuple[int, ...]

    @classmethod
    def choose(cls, options: UpOptions, free: Sequence[int]) -> "Ports":
        """Take the ports that the options name, and free ones for the rest.

        Raises:
            SetupError: a port that an option names is taken.
        """
        valkey, any_api, any_flower, *rest = free
        store, metrics = rest[:8], rest[8:]
        flower = options.flower_port
        if options.port:
            require_free(options.port, "--port")
        if flower:
            require_free(flower, "--flower-port")
        return cls(
            api=options.port or any_api,
            flower=None if flower is None else flower or any_flower,
            valkey=valkey,
            store=StorePorts.take(store),
            metrics=tuple(metrics),
        )


@dataclass(frozen=True, slots=True)
class Stack:
    """All that `rmbg up` runs.

    Attributes:
        settings: the settings of all processes.
        servers: the embedded servers, which have to be ready before the services start.
        services: the processes of this project, and Flower.
        api_url: address of the API.
        flower_url: address of Flower; None if it is not run.
    """

    settings: Settings
    servers: tuple[Service, ...]
    services: tuple[Service, ...]
    api_url: str
    flower_url: str | None


def plan_stack(options: UpOptions, given: Settings, folder: Path, ports: Ports) -> Stack:
    """Choose passwords, commands and environment of all services, and start nothing.

    Args:
        options: of `rmbg up`.
        given: the user's settings. Without a Redis or an object store, an embedded one is run.
        folder: the data folder.
        ports: of all services.

    Raises:
        SetupError: a program is not installed, or the user's own server does not answer.
    """
    settings, servers = _with_servers(given, folder, ports)
    return Stack(
        settings=settings,
        servers=servers,
        services=_services(options, settings, ports),
        api_url=f"http://{LOOPBACK}:{ports.api}",
        flower_url=f"http://{LOOPBACK}:{ports.flower}" if ports.flower else None,
    )


def _with_servers(
    given: Settings, folder: Path, ports: Ports
) -> tuple[Settings, tuple[Service, ...]]:
    """Return the settings with all addresses and secrets, and the embedded servers to run."""
    servers, added = [], {}
    if "redis_url" in given.model_fields_set:
        _check_redis(given)
    else:
        password = load_credential(folder, "valkey-password")
        servers.append(valkey_service(folder / "valkey", ports.valkey, password))
        added["redis_url"] = valkey_url(ports.valkey, password)
    if "s3_endpoint" in given.model_fields_set:
        _check_object_store(given)
    else:
        access_key = load_credential(folder, "s3-access-key")
        secret_key = load_credential(folder, "s3-secret-key")
        store = store_service(
            folder / "store", ports.store, access_key, secret_key, given.s3_bucket
        )
        servers.append(store)
        added |= {
            "s3_endpoint": store.address,
            "s3_public_endpoint": store.address,
            "s3_access_key": access_key,
            "s3_secret_key": secret_key,
        }
    if given.webhook_secret is None:
        key = bytes.fromhex(load_credential(folder, "webhook-key"))
        added["webhook_secret"] = f"whsec_{base64.b64encode(key).decode()}"
    chosen = {name: getattr(given, name) for name in given.model_fields_set}
    return Settings.load(**{**chosen, **added}), tuple(servers)


def _check_redis(given: Settings) -> None:
    url = given.redis_url.get_secret_value()
    try:
        probes.redis_answers(url)(0)
    except NotReadyError as error:
        raise SetupError(
            f"Redis at {urlsplit(url).hostname} does not answer: {error}. Check RMBG_REDIS_URL."
        ) from error


def _check_object_store(given: Settings) -> None:
    endpoint, secret_key = str(given.s3_endpoint), given.s3_secret_key.get_secret_value()
    try:
        probes.object_store_answers(endpoint, given.s3_access_key, secret_key, given.s3_bucket)(0)
    except NotReadyError as error:
        raise SetupError(
            f"{endpoint}: {error}. Check RMBG_S3_ACCESS_KEY and RMBG_S3_SECRET_KEY, too."
        ) from error


def child_environment(settings: Settings, workers: int) -> dict[str, str]:
    """Return the settings as variables, with the CPU cores divided among the model workers."""
    public_endpoint = settings.s3_public_endpoint or settings.s3_endpoint
    webhook_secret = settings.webhook_secret
    return {
        "RMBG_REDIS_URL": settings.redis_url.get_secret_value(),
        "RMBG_S3_ENDPOINT": str(settings.s3_endpoint),
        "RMBG_S3_PUBLIC_ENDPOINT": str(public_endpoint),
        "RMBG_S3_ACCESS_KEY": settings.s3_access_key,
        "RMBG_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "RMBG_S3_BUCKET": settings.s3_bucket,
        "RMBG_MODEL": settings.model,
        "RMBG_MODEL_DIR": str(settings.model_dir.resolve()),
        "RMBG_WEBHOOK_SECRET": webhook_secret.get_secret_value() if webhook_secret else "",
        "RMBG_HOST": settings.host,
        "RMBG_THREADS": str(settings.threads or max(1, service.core_count() // workers)),
        "RMBG_LOG_FORMAT": settings.log_format,
        # All services listen on loopback only.
        "RMBG_AUTH": "off",
    }


def _services(options: UpOptions, settings: Settings, ports: Ports) -> tuple[Service, ...]:
    env = child_environment(settings, options.workers)
    # A port of 0 serves no metrics: workers for whom no port is left run without.
    io_port, *metrics = (*ports.metrics, *(0 for _ in range(options.workers)))
    workers = [
        _model_worker(index, settings, env, metrics[index]) for index in range(options.workers)
    ]
    services = [*workers, _io_worker(settings, env, io_port), _api(ports.api, env)]
    if ports.flower is not None:
        service.require_module("flower")
        nodes = [_node(name, settings) for name in ("io", *(worker.name for worker in workers))]
        services.append(_flower(ports.flower, nodes, env))
    return tuple(services)


def _model_worker(
    index: int, settings: Settings, env: Mapping[str, str], metrics_port: int
) -> Service:
    name = f"gpu{index}"
    node = _node(name, settings)
    queues = (routing.gpu_queue(settings.host, index), routing.model_queue(settings.model))
    return Service(
        name=name,
        command=_worker_command(node, queues, "-P", "prefork", "-c", "1"),
        env={**env, **_metrics_environment(metrics_port)},
        metrics=_metrics_address(metrics_port),
        address=", ".join(queues),
        probe=probes.worker_ready(settings.redis_url.get_secret_value(), node),
        grace=settings.shutdown_seconds + _WORKER_LEAD_SECONDS,
        stop_stage=_WORKER_STAGE,
    )


def _io_worker(settings: Settings, env: Mapping[str, str], metrics_port: int) -> Service:
    queues = (routing.WEBHOOK_QUEUE,)
    return Service(
        name="io",
        command=_worker_command(_node("io", settings), queues, "-P", "threads", "-c", "32"),
        env={**env, **_metrics_environment(metrics_port)},
        metrics=_metrics_address(metrics_port),
        address=", ".join(queues),
        probe=probes.worker_online(settings, _node("io", settings)),
        grace=settings.shutdown_seconds + _WORKER_LEAD_SECONDS,
        stop_stage=_WORKER_STAGE,
    )


def _node(name: str, settings: Settings) -> str:
    """Return a worker's Celery name."""
    return f"{name}@{settings.host}"


def _worker_command(node: str, queues: Sequence[str], *pool: str) -> tuple[str, ...]:
    options = ("-n", node, "-Q", ",".join(queues), *pool, "-l", "info")
    return (service.script("celery"), "-A", "tasks.app", "worker", *options)


def _metrics_environment(port: int) -> dict[str, str]:
    return {"RMBG_METRICS_PORT": str(port), "RMBG_METRICS_ADDRESS": LOOPBACK}


def _metrics_address(port: int) -> str:
    return f"{LOOPBACK}:{port}" if port else ""


def _api(port: int, env: Mapping[str, str]) -> Service:
    url = f"http://{LOOPBACK}:{port}"
    application = ("-c", "python:api.gunicorn_conf", "api.app:create_app()")
    return Service(
        name="api",
        command=(service.script("gunicorn"), *application, "-b", f"{LOOPBACK}:{port}"),
        env=env,
        metrics=f"{LOOPBACK}:{port}",
        address=url,
        probe=probes.http_ok(f"{url}/healthz/ready"),
        # The API logs each request of the probe.
        probe_interval=0.5,
        grace=_API_GRACE_SECONDS,
        stop_stage=_API_STAGE,
    )


def _flower(port: int, workers: Sequence[str], env: Mapping[str, str]) -> Service:
    url = f"http://{LOOPBACK}:{port}"
    options = (f"--address={LOOPBACK}", f"--port={port}", f"--max_tasks={_FLOWER_TASKS}")
    return Service(
        name="flower",
        command=(service.script("celery"), "-A", "tasks.app", "flower", *options),
        env=env,
        address=url,
        probe=probes.flower_sees(url, workers),
        grace=_FLOWER_GRACE_SECONDS,
        stop_stage=_FLOWER_STAGE,
    )
