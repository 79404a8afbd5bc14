"""The services that make up `rmbg up`, with their commands, environment and ports."""

import base64
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from redis.exceptions import RedisError

from api.settings import ApiSettings
from deploy.doctor import CheckResult, Level, check_permissions, check_rights
from deploy.local import probes, service
from deploy.local.data_folder import load_credential
from deploy.local.ports import LOOPBACK, SOCKET_FOLDER, require_free
from deploy.local.servers import StorePorts, store_service, valkey_service, valkey_url
from deploy.local.service import NotReadyError, Probe, Service, SetupError
from inference.models.registry import get_spec
from tasks import redis_keys
from tasks.capacity import FREE_BYTES, free_bytes
from tasks.jobs import routing
from tasks.object_store import ObjectStore
from tasks.redis_client import connect, server_problem
from tasks.settings import Settings, visible_gpus

#: Seconds from the end of a worker's own grace time, when its job is back in the queue, to SIGKILL.
_WORKER_LEAD_SECONDS: Final = 10.0
#: A key that is written to see whether a user's own Redis takes writes.
_WRITE_PROBE: Final = f"{redis_keys.PREFIX}up"
#: Where the C library keeps the semaphores of Celery's pool.
_SEMAPHORES: Final = Path("/dev/shm")  # noqa: S108 - a name is not chosen here
_FLOWER_TASKS: Final = 2000
_FLOWER_MODULE: Final = "deploy.local.celery_flower"
#: Who may see Flower, and the file of the data folder with the password.
FLOWER_USER: Final = "rmbg"
FLOWER_PASSWORD: Final = "flower-password"  # noqa: S105 - a file's name
#: How long a start may take; where a network may have to be compiled for its GPU, and elsewhere.
_COMPILING_SECONDS: Final = 900.0
_START_SECONDS: Final = 120.0
#: The driver has an entry for each of its GPUs here.
_GPUS: Final = Path("/proc/driver/nvidia/gpus")
#: Workers of a small model on CPUs: two at least, so that one decodes and encodes while the other's
#: model runs; each holds about 320 MB.
_LEAST_WORKERS, _MOST_WORKERS = 2, 4
_LEAST_MEMORY: Final = 4 * 2**30
#: The API stops first, so that no job is submitted any more; the servers have a later stage.
_API_STAGE, _FLOWER_STAGE, _WORKER_STAGE = range(3)


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `rmbg up`; a port of 0 means any free one, 0 workers as many as suit."""

    port: int = 8000
    #: None to run without Flower.
    flower_port: int | None = 5555
    #: Folder of jobs, pictures and passwords.
    data: Path = Path("data")
    workers: int = 1
    #: The model to serve; None for RMBG_MODEL.
    model: str | None = None
    #: A Redis to use instead of an embedded Valkey; None for RMBG_REDIS_URL, if set.
    redis_url: str | None = None
    #: An object store to use, with the settings' keys, instead of an embedded SeaweedFS; None for
    #: RMBG_S3_ENDPOINT, if set.
    s3_endpoint: str | None = None
    #: How long the whole start may take; None for what the model needs.
    start_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of all services."""

    api: int
    #: None if Flower is not run.
    flower: int | None
    valkey: int
    store: StorePorts
    #: The I/O worker's first; a worker beyond them serves no metrics.
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
    """All that `rmbg up` runs, and where it answers."""

    settings: ApiSettings
    #: The embedded servers, which have to be ready before the services start.
    servers: tuple[Service, ...]
    #: The processes of this project, and Flower.
    services: tuple[Service, ...]
    api_url: str
    flower_url: str | None
    #: How long the whole start may take.
    start_seconds: float = _START_SECONDS


def plan_stack(options: UpOptions, given: ApiSettings, folder: Path, ports: Ports) -> Stack:
    """Choose passwords, commands and environment of all services, and start nothing.

    Where `given`, the user's settings, name no Redis or no object store, an embedded one is run.

    Raises:
        SetupError: a program is not installed, a folder or disk takes no files, or the user's own
            server does not answer.
    """
    _check_semaphores()
    settings, servers = _with_servers(given, folder, ports)
    return Stack(
        settings=settings,
        servers=servers,
        services=_services(options, settings, folder, ports),
        api_url=f"http://{LOOPBACK}:{ports.api}",
        flower_url=f"http://{LOOPBACK}:{ports.flower}" if ports.flower else None,
        start_seconds=options.start_seconds or _start_seconds(settings),
    )


def _start_seconds(settings: ApiSettings) -> float:
    compiles = _gpus() and settings.device != "cpu" and get_spec(settings.model).engine != "onnx"
    return _COMPILING_SECONDS if compiles else _START_SECONDS


def _with_servers(
    given: ApiSettings, folder: Path, ports: Ports
) -> tuple[ApiSettings, tuple[Service, ...]]:
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
        _check_socket_folder()
        _check_disk(folder)
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
            "s3_credentials": "keys",
            "s3_addressing_style": "path",
            "s3_sync_dir": str(folder / "store"),
        }
    if servers and given.data_dir is None:
        added["data_dir"] = str(folder)
    if given.webhook_secret is None:
        added["webhook_secret"] = f"whsec_{base64.b64encode(_webhook_key(folder)).decode()}"
    chosen = {name: getattr(given, name) for name in given.model_fields_set}
    return ApiSettings.load(**{**chosen, **added}), tuple(servers)


def _webhook_key(folder: Path) -> bytes:
    try:
        return bytes.fromhex(load_credential(folder, "webhook-key"))
    except ValueError as error:
        raise SetupError(
            f"{folder / 'webhook-key'} does not hold the hexadecimal digits of a key. Put its old "
            "content back, or delete it: a new key is made, which receivers of webhooks need."
        ) from error


def _check_socket_folder() -> None:
    if not os.access(SOCKET_FOLDER, os.W_OK):
        raise SetupError(
            f"{SOCKET_FOLDER} cannot be written, where SeaweedFS keeps its sockets. Mount a tmpfs "
            "there, or use another object store: RMBG_S3_ENDPOINT."
        )


def _check_disk(folder: Path) -> None:
    """Refuse a disk on which SeaweedFS would not even write an object of the check of its start."""
    free, least = free_bytes(folder), FREE_BYTES // 2
    if free < least:
        raise SetupError(
            f"The disk of the data folder {folder} has {free / 2**20:,.0f} MiB left, and SeaweedFS "
            f"writes nothing below {least / 2**20:,.0f}. Free some, or choose another folder: "
            "rmbg up --data FOLDER"
        )


def _check_semaphores() -> None:
    if sys.platform == "linux" and not os.access(_SEMAPHORES, os.W_OK | os.X_OK):
        raise SetupError(
            f"{_SEMAPHORES} cannot be written, where model workers keep their semaphores. Mount a "
            f"tmpfs there that all users may write: mount -t tmpfs -o mode=1777 tmpfs {_SEMAPHORES}"
        )


def _check_redis(given: ApiSettings) -> None:
    address = given.redis_address
    fault = "does not answer"
    try:
        with connect(address) as client:
            client.ping()
            if problem := server_problem(client):
                raise SetupError(f"RMBG_REDIS_URL is {address}: {problem}.")
            _require(check_rights(address), f"Redis at {address}")
            # A replica, or a server that is full, answers all of that.
            fault = "takes no writes"
            client.set(_WRITE_PROBE, "1", px=1)
    except RedisError as error:
        reason = str(error).rstrip(".")
        raise SetupError(f"Redis at {address} {fault}: {reason}. Check RMBG_REDIS_URL.") from error


def _check_object_store(given: ApiSettings) -> None:
    store = f"The object store that RMBG_S3_ENDPOINT names, {given.s3_endpoint}"
    try:
        probes.object_store_answers(given)(0)
    except NotReadyError as error:
        raise SetupError(f"{store}: {error}") from error
    _require(check_permissions(ObjectStore.from_settings(given)), store)


def _require(result: CheckResult, server: str) -> None:
    if result.level is Level.FAIL:
        raise SetupError(f"{server}: {result.text}: {result.advice}.")


def choose_workers(settings: Settings) -> int:
    """Return how many model workers suit both one person who waits and many.

    More than one only of a small model on CPUs: each worker holds the whole model, and pictures on
    a GPU run one after the other anyway.
    """
    cores = service.core_count()
    small = get_spec(settings.model).engine == "onnx"
    on_gpu = settings.device.startswith("cuda") or (settings.device == "auto" and bool(_gpus()))
    if not small or on_gpu or cores == 1 or service.memory_bytes() < _LEAST_MEMORY:
        return 1
    return min(max(_LEAST_WORKERS, cores // 2), _MOST_WORKERS)


def _threads(workers: int) -> int:
    """Return the threads of each worker's model: its share of the cores.

    With more, the threads of MNN wait for each other while other workers have the cores: a picture
    took 140 ms more of 760, where a lone one is only 80 ms faster with a second thread.
    """
    return max(1, service.core_count() // workers)


def _with_whole_paths(redis_url: str) -> str:
    """Name the files of a URL's TLS options as a process in another folder finds them."""

    def whole(option: re.Match[str]) -> str:
        return option[1] + quote(str(Path(unquote(option[2])).resolve()))

    return re.sub(r"([?&]ssl_(?:ca_certs|ca_path|certfile|keyfile)=)([^&]+)", whole, redis_url)


def child_environment(settings: ApiSettings, workers: int) -> dict[str, str]:
    """Return the settings as variables, with the CPU cores shared among the model workers.

    All that were given are among them: who starts another API by them gets one that agrees with
    this one on lifecycle rules, limits and quotas.
    """
    public_endpoint = settings.s3_public_endpoint or settings.s3_endpoint
    webhook_secret = settings.webhook_secret
    return {
        **settings.environment(),
        "RMBG_REDIS_URL": _with_whole_paths(settings.redis_url.get_secret_value()),
        "RMBG_S3_ENDPOINT": str(settings.s3_endpoint),
        "RMBG_S3_PUBLIC_ENDPOINT": str(public_endpoint),
        "RMBG_S3_ACCESS_KEY": settings.s3_access_key,
        "RMBG_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "RMBG_S3_BUCKET": settings.s3_bucket,
        "RMBG_MODEL": settings.model,
        "RMBG_MODEL_DIR": str(settings.model_dir.resolve()),
        "RMBG_WEBHOOK_SECRET": webhook_secret.get_secret_value() if webhook_secret else "",
        "RMBG_HOST": settings.host,
        "RMBG_THREADS": str(settings.threads or _threads(workers)),
        "RMBG_LOG_FORMAT": settings.log_format,
        # All services listen on loopback only, where keys are asked for by choice.
        "RMBG_AUTH": settings.auth if "auth" in settings.model_fields_set else "off",
    }


def _services(
    options: UpOptions, settings: ApiSettings, folder: Path, ports: Ports
) -> tuple[Service, ...]:
    env = child_environment(settings, options.workers)
    # A port of 0 serves no metrics: workers for whom no port is left run without.
    io_port, *metrics = (*ports.metrics, *(0 for _ in range(options.workers)))
    workers = [
        _model_worker(index, settings, env, metrics[index]) for index in range(options.workers)
    ]
    node = _node("io", settings)
    io = _worker(
        node,
        (routing.WEBHOOK_QUEUE,),
        ("-P", "threads", "-c", "32"),
        probes.worker_online(settings, node),
        settings=settings,
        env=env,
        metrics_port=io_port,
    )
    services = [*workers, io, _api(ports.api, {**env, **_flower_link(settings, ports)})]
    if ports.flower is not None:
        service.require_module("flower")
        nodes = [_node(worker.name, settings) for worker in (io, *workers)]
        login = f"{FLOWER_USER}:{load_credential(folder, FLOWER_PASSWORD)}"
        services.append(_flower(ports.flower, nodes, {**env, "FLOWER_BASIC_AUTH": login}))
    # Celery and gunicorn look for packages in their working directory first, and the user's may
    # have an `api` or `tasks` of its own.
    return tuple(replace(each, folder=folder) for each in services)


def _flower_link(settings: ApiSettings, ports: Ports) -> dict[str, str]:
    """Return the setting of the API that links to this Flower, unless the user's names another."""
    if settings.flower_url or ports.flower is None:
        return {}
    return {"RMBG_FLOWER_URL": f"http://{LOOPBACK}:{ports.flower}"}


def _model_worker(
    index: int, settings: ApiSettings, env: Mapping[str, str], metrics_port: int
) -> Service:
    node = _node(f"gpu{index}", settings)
    env = {**env, **_gpu_of(index, settings)}
    return _worker(
        node,
        (routing.gpu_queue(settings.host, index), routing.model_queue(settings.model)),
        ("-P", "prefork", "-c", "1"),
        probes.worker_ready(settings.redis_address, node),
        settings=settings,
        env=env,
        metrics_port=metrics_port,
    )


def _gpus() -> tuple[str, ...]:
    """Return this machine's GPUs, or those that CUDA is limited to."""
    found = len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0
    return visible_gpus() or tuple(map(str, range(found)))


def _gpu_of(index: int, settings: ApiSettings) -> dict[str, str]:
    """Return what gives a worker one of several GPUs, in turn, unless a setting names one."""
    gpus = _gpus()
    if len(gpus) < 2 or settings.device not in {"auto", "cuda"}:  # noqa: PLR2004 - one is no choice
        return {}
    return {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}


def _node(name: str, settings: ApiSettings) -> str:
    return f"{name}@{settings.host}"


def _worker(
    node: str,
    queues: Sequence[str],
    pool: Sequence[str],
    probe: Probe,
    *,
    settings: ApiSettings,
    env: Mapping[str, str],
    metrics_port: int,
) -> Service:
    # Without gossip, by which each worker reads the events of all others to no use.
    options = ("-n", node, "-Q", ",".join(queues), *pool, "-l", "info", "--without-gossip")
    # Who runs `rmbg up` as root has chosen that; Celery would warn of it in each process.
    quiet = {"PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges"}
    return Service(
        name=node.removesuffix(f"@{settings.host}"),
        command=(service.script("celery"), "-A", "tasks.app", "worker", *options),
        env={
            **env,
            **quiet,
            "RMBG_METRICS_PORT": str(metrics_port),
            "RMBG_METRICS_ADDRESS": LOOPBACK,
        },
        metrics=f"{LOOPBACK}:{metrics_port}" if metrics_port else "",
        address=", ".join(queues),
        probe=probe,
        grace=settings.shutdown_seconds + _WORKER_LEAD_SECONDS,
        stop_stage=_WORKER_STAGE,
    )


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
        # Who waits for a task is answered at once; a download may go on for this time.
        grace=10.0,
        stop_stage=_API_STAGE,
    )


def _flower(port: int, workers: Sequence[str], env: Mapping[str, str]) -> Service:
    url = f"http://{LOOPBACK}:{port}"
    options = (f"--address={LOOPBACK}", f"--port={port}", f"--max_tasks={_FLOWER_TASKS}")
    return Service(
        name="flower",
        command=(sys.executable, "-m", _FLOWER_MODULE, "-A", "tasks.app", "flower", *options),
        env=env,
        address=url,
        probe=probes.flower_sees(url, workers),
        # It has nothing to save.
        grace=3.0,
        stop_stage=_FLOWER_STAGE,
    )
