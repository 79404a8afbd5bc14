"""The whole service in real processes, on servers of its own, with workers whose model sleeps.

What its processes, Redis and the object store have used so far can be read at any time.
"""

import io
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import psutil
from PIL import Image
from redis import Redis

from benchmarks.pretend_worker import SLEEP_FILE
from deploy.local import probes, supervisor
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from deploy.local.service import Service
from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from tasks.jobs.job import Status
from tasks.jobs.routing import WEBHOOK_QUEUE, gpu_queue, model_queue
from tasks.runtime import Runtime
from tasks.settings import Settings
from tests.support.servers import embedded_store, embedded_valkey, running, spawn, wait_until

HOST: Final = "pretend"
MODEL: Final = "u2netp"
_ROOT: Final = Path(__file__).parents[1]
_START_SECONDS: Final = 120.0
#: Side of the picture, whose noise makes it a PNG of about 100 kB that costs little to decode.
_SIDE: Final = 182


def picture() -> bytes:
    """Return a PNG of 100 kB."""
    file = io.BytesIO()
    noise = Image.frombytes("RGB", (_SIDE, _SIDE), secrets.token_bytes(3 * _SIDE * _SIDE))
    noise.save(file, "PNG", compress_level=1)
    return file.getvalue()


@dataclass(frozen=True)
class Usage:
    """What has been used up to a moment.

    Attributes:
        processor: seconds by kind of process.
        commands: that Redis has run; those of a script count.
        round_trips: reads from Redis's clients.
        redis_bytes: that Redis has read and written.
    """

    processor: Mapping[str, float]
    commands: int
    round_trips: int
    redis_bytes: int

    def __sub__(self, before: Self) -> "Usage":
        spent = {
            kind: seconds - before.processor.get(kind, 0.0)
            for kind, seconds in self.processor.items()
        }
        return Usage(
            spent,
            self.commands - before.commands,
            self.round_trips - before.round_trips,
            self.redis_bytes - before.redis_bytes,
        )


@dataclass
class PretendService:
    """An API, an I/O worker and any number of model workers, each of them its own process."""

    folder: Path
    env: Mapping[str, str]
    runtime: Runtime
    key: str
    url: str = ""
    #: The processes' first ones by kind, except for the workers'.
    pids: dict[str, int] = field(default_factory=dict)
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def redis(self) -> Redis:
        """A client."""
        return self.runtime.redis

    def pending(self) -> int:
        """Return how many jobs wait or run."""
        counts = self.runtime.job_store.counts()
        return counts[Status.QUEUED] + counts[Status.PROCESSING]

    # -- workers -------------------------------------------------------------------------------

    def start_workers(self, *indexes: int) -> None:
        """Start workers side by side, and wait until each is ready."""
        since = time.time()
        for index in indexes:
            log = self.folder / f"gpu{index}.log"
            self.workers[index] = spawn(self._worker(index), log)
        for index in indexes:
            probe = self._worker(index).probe
            wait_until(probe, since=since, seconds=_START_SECONDS)

    def set_sleep(self, index: int, milliseconds: float) -> None:
        """Set how long a worker's model takes for a picture, from the next one on."""
        folder = self.folder / f"models{index}"
        folder.mkdir(exist_ok=True)
        new = folder / f"{SLEEP_FILE}.new"
        new.write_text(f"{milliseconds}")
        new.replace(folder / SLEEP_FILE)

    def kill_child(self, index: int) -> None:
        """Kill the process of a worker that has the model."""
        children = psutil.Process(self.workers[index].pid).children()
        # The other one is the resource tracker of multiprocessing.
        max(children, key=lambda each: each.memory_info().rss).kill()

    def stop_workers(self) -> None:
        """Kill all workers with what they have started."""
        for process in self.workers.values():
            process.kill()
            process.wait()
            supervisor.kill_group(process.pid)
        self.workers.clear()

    def _worker(self, index: int) -> Service:
        folder = self.folder / f"models{index}"
        if not (folder / SLEEP_FILE).exists():
            self.set_sleep(index, 0)
        weights = folder / get_spec(MODEL).file_name
        if not weights.exists():
            # The worker checks that there is the file that it is to serve.
            weights.symlink_to(fetch_model(get_spec(MODEL), Settings.load().model_dir).resolve())
        env = {**self.env, "RMBG_MODEL_DIR": str(folder)}
        name = f"gpu{index}@{HOST}"
        queues = f"{gpu_queue(HOST, index)},{model_queue(MODEL)}"
        probe = probes.worker_ready(env["RMBG_REDIS_URL"], name)
        return _celery("benchmarks.pretend_worker", name, queues, env, probe)

    # -- what was used -------------------------------------------------------------------------

    def usage(self) -> Usage:
        """Return what has been used so far."""
        spent: dict[str, float] = {}
        for kind, pid in self.pids.items():
            spent[kind] = _processor_seconds(_family(pid))
        for process in self.workers.values():
            for kind, each in _worker_processes(process.pid):
                spent[kind] = spent.get(kind, 0.0) + _processor_seconds([each])
        told = self.redis.info("stats")
        return Usage(
            spent,
            int(told["total_commands_processed"]),
            int(told["total_reads_processed"]),
            int(told["total_net_input_bytes"]) + int(told["total_net_output_bytes"]),
        )

    def resident_mb(self) -> dict[str, float]:
        """Return the resident memory by kind of process, of the largest worker."""
        found = {
            kind: sum(each.memory_info().rss for each in _family(pid)) / 2**20
            for kind, pid in self.pids.items()
        }
        for process in self.workers.values():
            for kind, each in _worker_processes(process.pid):
                found[kind] = max(found.get(kind, 0.0), each.memory_info().rss / 2**20)
        return found


def _family(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def _worker_processes(pid: int) -> Iterator[tuple[str, psutil.Process]]:
    """The processes of a worker with their kinds."""
    parent = psutil.Process(pid)
    yield "worker, parent", parent
    for child in parent.children():
        yield "worker, child", child
        for each in child.children(recursive=True):
            yield "worker, decoding", each


def _processor_seconds(processes: list[psutil.Process]) -> float:
    total = 0.0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def own_seconds(pid: int) -> float:
    """Return the processor seconds of a process and its children so far, to the nanosecond.

    Those of threads that have ended are not among them, nor on a system without `/proc`.
    """
    total = 0
    for process in _family(pid):
        for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total += int(task.read_text("ascii").split()[0])
    return total / 1e9


@contextmanager
def pretend_service(folder: Path, **settings: str) -> Iterator[PretendService]:
    """Start the servers, an API of two processes and an I/O worker, and no model worker yet.

    Args:
        folder: for data and logs.
        settings: variables `RMBG_…` for all processes, beside the servers' addresses.
    """
    with ExitStack() as stack:
        redis_url = stack.enter_context(embedded_valkey(folder / "valkey"))
        store = stack.enter_context(embedded_store(folder / "store"))
        path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            "PYTHONPATH": os.pathsep.join(path),
            "RMBG_REDIS_URL": redis_url,
            "RMBG_S3_ENDPOINT": store.endpoint,
            "RMBG_S3_ACCESS_KEY": store.access_key,
            "RMBG_S3_SECRET_KEY": store.secret_key,
            "RMBG_HOST": HOST,
            "RMBG_MODEL": MODEL,
            "RMBG_AUTH": "on",
            "RMBG_MAX_PENDING": "0",
            **settings,
        }
        own = {
            name.removeprefix("RMBG_").lower(): text
            for name, text in env.items()
            if name.startswith("RMBG_")
        }
        known = {name: text for name, text in own.items() if name in Settings.model_fields}
        runtime = stack.enter_context(Runtime(Settings.load(**known)))
        runtime.object_store.ensure_bucket()
        _, key = runtime.api_keys.add("bench")
        made = PretendService(folder, env, runtime, key)
        made.pids["Redis"] = int(runtime.redis.info("server")["process_id"])
        made.pids["object store"] = _listener(store.endpoint)
        _start(stack, made)
        stack.callback(made.stop_workers)
        yield made


def _listener(endpoint: str) -> int:
    """The process of ours that listens there."""
    port = int(endpoint.rpartition(":")[2])
    for each in psutil.Process().children():
        with suppress(psutil.Error):
            if any(found.laddr.port == port for found in each.net_connections("tcp")):
                return each.pid
    raise LookupError(f"no process listens on {endpoint}")


def _start(stack: ExitStack, made: PretendService) -> None:
    name = f"io@{HOST}"
    online = probes.worker_online(made.runtime.settings, name)
    io_worker = _celery("tasks.app", name, WEBHOOK_QUEUE, made.env, online)
    port, *_ = stack.enter_context(reserved_ports())
    made.url = f"http://127.0.0.1:{port}"
    gunicorn = (local_service.script("gunicorn"), "-c", "python:api.gunicorn_conf")
    api = Service(
        "api",
        (*gunicorn, "-b", f"127.0.0.1:{port}", "api.app:create_app()"),
        env=made.env,
        probe=probes.http_ok(f"{made.url}/healthz/live"),
    )
    for kind, each in (("I/O worker", io_worker), ("API", api)):
        log = made.folder / f"{each.name}.log"
        process = stack.enter_context(running(each, log, seconds=_START_SECONDS))
        made.pids[kind] = process.pid


def _celery(
    app: str, name: str, queues: str, env: Mapping[str, str], probe: local_service.Probe
) -> Service:
    command = (local_service.script("celery"), "-A", app, "worker", "-n", name, "-Q", queues)
    pool = ("-P", "threads", "-c", "32") if queues == WEBHOOK_QUEUE else ("-P", "prefork")
    return Service(name, (*command, *pool), env=env, probe=probe, grace=20)
