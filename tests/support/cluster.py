"""A whole service of real processes that can be killed, stopped and started one by one."""

import io
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from api.inputs import InputFile, Submission
from api.services import Services
from api.settings import ApiSettings
from deploy.local import probes, supervisor
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from deploy.local.servers import StorePorts, store_service, valkey_service, valkey_url
from deploy.local.service import Service, always_ready
from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from inference.options import Options
from inference.pipeline import remove_background
from tasks.errors import TaskError
from tasks.jobs.job import Job, Priority, Status
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.faulty_worker import FaultyModel
from tests.support.paths import ROOT
from tests.support.servers import wait_until

HOST = "faults"
PASSWORD = "test"
KEYS = ("access", "secret-of-the-tests")
_READY_SECONDS = 60.0


@dataclass
class Member:
    """One process of the cluster, in its present life."""

    service: Service
    process: subprocess.Popen[bytes]
    started: float


@dataclass
class Cluster:
    """Starts, hurts and watches the processes; submits jobs as the API does."""

    folder: Path
    valkey_port: int
    store_ports: StorePorts
    settings: Mapping[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def redis_url(self) -> str:
        return valkey_url(self.valkey_port, PASSWORD)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RMBG_REDIS_URL": self.redis_url,
            "RMBG_S3_ENDPOINT": f"http://127.0.0.1:{self.store_ports.s3}",
            "RMBG_S3_ACCESS_KEY": KEYS[0],
            "RMBG_S3_SECRET_KEY": KEYS[1],
            "RMBG_MODEL_DIR": str(self.folder),
            "RMBG_HOST": HOST,
            "RMBG_TIME_LIMIT": "15",
            **self.settings,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }

    def services(self, **more: str) -> Services:
        settings = ApiSettings.load(
            **more,
            redis_url=self.redis_url,
            s3_endpoint=f"http://127.0.0.1:{self.store_ports.s3}",
            s3_access_key=KEYS[0],
            s3_secret_key=KEYS[1],
        )
        return Services.from_settings(settings)

    # -- processes -----------------------------------------------------------------------------

    def start_servers(self) -> None:
        self.start(valkey_service(self.folder / "valkey", self.valkey_port, PASSWORD))
        self.start(store_service(self.folder / "store", self.store_ports, *KEYS))

    def start_worker(self, index: int = 0, *, wait: bool = True, **settings: str) -> str:
        name = f"gpu{index}"
        queues = f"gpu.{HOST}.{index},model.u2netp"
        ready = probes.worker_ready(self.redis_url, f"{name}@{HOST}")
        self.start(self._celery(name, queues, ready, **settings), wait=wait)
        return name

    def start_io(self, index: int = 0) -> str:
        name = f"io{index}"
        self.start(self._celery(name, "webhooks", always_ready, "-P", "threads", "-c", "8"))
        return name

    def _celery(
        self, name: str, queues: str, probe: local_service.Probe, *pool: str, **settings: str
    ) -> Service:
        command = (
            local_service.script("celery"),
            "-A",
            "tests.support.faulty_app",
            "worker",
            "-n",
            f"{name}@{HOST}",
        )
        env = {**self.environment, **settings}
        return Service(name, (*command, "-Q", queues, *pool), env=env, probe=probe, grace=60)

    def start(self, service: Service, *, wait: bool = True) -> None:
        started = time.time()
        with (self.folder / f"{service.name}.log").open("ab") as log:
            process = subprocess.Popen(
                supervisor.command_line(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(supervisor.environment(service)),
                start_new_session=True,
            )
        self.members[service.name] = Member(service, process, started)
        if wait:
            self.wait_ready(service.name)

    def wait_ready(self, name: str) -> None:
        member = self.members[name]
        wait_until(member.service.probe, since=member.started, seconds=_READY_SECONDS, interval=0.1)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.members[name].process.send_signal(number)

    def kill(self, name: str) -> None:
        """kill -9 of the process and all that is left of its group."""
        process = self.members[name].process
        process.kill()
        process.wait()
        supervisor.kill_group(process.pid)

    def child(self, name: str) -> psutil.Process:
        """A worker's pool child; `ValueError` if it has none just now."""
        children = psutil.Process(self.members[name].process.pid).children()
        return max(children, key=lambda each: each.memory_info().rss)

    def kill_child(self, name: str) -> None:
        """kill -9 of a worker's pool child alone."""
        with suppress(psutil.NoSuchProcess, ValueError):
            self.child(name).kill()

    def family(self, name: str) -> list[psutil.Process]:
        """A worker's parent and all below it."""
        parent = psutil.Process(self.members[name].process.pid)
        return [parent, *parent.children(recursive=True)]

    def stopped(self, *names: str) -> list[str]:
        """Those of the members that stand still by a SIGSTOP."""
        return [
            name
            for name in names
            if psutil.Process(self.members[name].process.pid).status() == psutil.STATUS_STOPPED
        ]

    def restart(self, name: str, *, wait: bool = True) -> None:
        self.start(self.members[name].service, wait=wait)

    def end(self, name: str) -> None:
        """SIGTERM, and as much time as it takes."""
        process = self.members[name].process
        process.terminate()
        try:
            process.wait(self.members[name].service.grace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end\n{self.logs()}") from None
        supervisor.kill_group(process.pid)

    def remove(self, name: str) -> None:
        """Kill a member, if it was started, for good."""
        if name in self.members:
            self.kill(name)
            del self.members[name]

    def heal(self) -> None:
        """Whatever a test did: every member runs and is ready, and nobody is drained."""
        for name in ("slow-start", "slow", "hung", "hang", "blind", "stop-after-pop"):
            (self.folder / name).unlink(missing_ok=True)
        for name, member in list(self.members.items()):
            if member.process.poll() is not None:
                self.restart(name, wait=False)
        for name in list(self.members):
            self._wait_ready_again(name)
        registry = WorkerRegistry(connect(self.redis_url))
        for worker in registry.workers():
            registry.undrain(worker.name)

    def _wait_ready_again(self, name: str) -> None:
        """Wait for a member; one that ends while it starts is started again, as supervisors do."""

        def probe(_since: float) -> None:
            if self.members[name].process.poll() is not None:
                # Celery ends a worker whose child was killed while it started.
                self.restart(name, wait=False)
            member = self.members[name]
            member.service.probe(member.started)

        wait_until(probe, since=0.0, seconds=_READY_SECONDS, interval=0.1)

    def end_all(self) -> None:
        for member in reversed(self.members.values()):
            member.process.kill()
            member.process.wait()
            supervisor.kill_group(member.process.pid)
            member.service.remove_leftovers()

    def logs(self) -> str:
        parts = []
        for path in sorted(self.folder.glob("*.log")):
            if not path.name.startswith(("valkey", "weed")):
                parts += [f"== {path.name}", *path.read_text(errors="replace").splitlines()[-40:]]
        return "\n".join(parts)


@contextmanager
def cluster(folder: Path, **settings: str) -> Iterator[Cluster]:
    # The parent looks at the model's file; the faulty model does without it.
    model = get_spec("u2netp")
    fetched = fetch_model(model, Settings.load().model_dir)
    (folder / model.file_name).symlink_to(fetched)
    with reserved_ports() as ports:
        made = Cluster(folder, ports[0], StorePorts.take(ports[1:]), settings)
        try:
            made.start_servers()
            yield made
        finally:
            made.end_all()


# -- jobs ----------------------------------------------------------------------------------------


def picture(red: int = 200, number: int = 0) -> bytes:
    """A small picture whose first pixel commands the faulty model; each number looks different."""
    pixels = np.full((24, 32, 3), 128, np.uint8)
    pixels[..., 0] = red
    pixels[:, :, 1] = number % 256
    pixels[:, :, 2] = number // 256
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def submit(
    services: Services,
    data: bytes,
    priority: Priority = Priority.NORMAL,
    webhook_url: str | None = None,
) -> str:
    submission = Submission(
        image=InputFile(io.BytesIO(data), len(data), "test.png"),
        priority=priority,
        webhook_url=webhook_url,
        cache=False,
    )
    return services.submissions.submit(submission, "test").job.task_id


def submit_many(
    services: Services, count: int, *, first: int = 0, priority: Priority = Priority.NORMAL
) -> dict[str, bytes]:
    """Pictures by the ids of their jobs."""
    pictures = [picture(number=number) for number in range(first, first + count)]
    return {submit(services, each, priority): each for each in pictures}


def await_processing(made: Cluster, services: Services) -> Job:
    """Some job that runs, as soon as one does."""
    found: list[str] = []

    def any_runs() -> bool:
        found[:] = services.runtime.job_store.ids(Status.PROCESSING)
        return bool(found)

    wait_for(any_runs, 20, made, "a running job")
    return job(services, found[0])


def expected(data: bytes) -> bytes:
    """The bytes of the right result."""
    return remove_background(data, Options(), FaultyModel()).data


def job(services: Services, task_id: str) -> Job:
    found = services.runtime.job_store.get(task_id)
    assert found is not None, task_id
    return found


def wait_for(condition: Callable[[], bool], seconds: float, cluster: Cluster, what: str) -> None:
    """Ask until it holds."""
    end = time.monotonic() + seconds
    while True:
        # A server that a test has killed may be away for a moment.
        with suppress(OSError, TaskError):
            if condition():
                return
        assert time.monotonic() < end, f"{what} did not come within {seconds} s\n{cluster.logs()}"
        time.sleep(0.05)


def wait_final(
    cluster: Cluster,
    services: Services,
    task_ids: list[str],
    seconds: float,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Job]:
    """All jobs, once all are final."""
    left = set(task_ids)

    def all_final() -> bool:
        meanwhile()
        left.difference_update([each for each in left if job(services, each).status.final])
        return not left

    wait_for(all_final, seconds, cluster, f"the end of {len(task_ids)} jobs")
    return [job(services, each) for each in task_ids]


def assert_exactly_once(made: Cluster, services: Services, jobs: dict[str, bytes]) -> None:
    """Every job succeeded, its one result object is there, and it has the right bytes."""
    for task_id, data in jobs.items():
        done = job(services, task_id)
        assert done.status is Status.SUCCEEDED, done
        assert done.result_key is not None
        result, right = services.runtime.object_store.get(done.result_key), expected(data)
        assert result == right, f"{done}\n{result.hex()}\n{right.hex()}\n{made.logs()}"
        # A late run removes what it stored as soon as its final write was refused.
        wait_for(
            lambda: result_objects(services, task_id) == [done.result_key],  # noqa: B023 - called here
            20,
            made,
            f"one result of {task_id} alone",
        )


def result_objects(services: Services, task_id: str) -> list[str]:
    """The keys of all results that runs of a job left in the bucket."""
    client = services.runtime.object_store.client
    found = client.list_objects("rmbg", prefix=f"results/{task_id}/", recursive=True)
    return [str(each.object_name) for each in found]
