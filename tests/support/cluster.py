"""A whole service of real processes that can be killed, stopped and started one by one."""

import io
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import psutil
from PIL import Image
from redis import Redis
from standardwebhooks.webhooks import Webhook

from api.inputs import InputFile
from api.services import Services
from api.submission import Submission
from deploy.local import probes, supervisor
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from deploy.local.servers import StorePorts, store_service, valkey_service, valkey_url
from deploy.local.service import Service, always_ready
from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from inference.options import Options
from inference.pipeline import remove_background
from tasks.api_keys import ANONYMOUS, Owner
from tasks.errors import TaskError
from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.routing import model_queue
from tasks.jobs.store import JobStore
from tasks.object_store import results_prefix
from tasks.settings import Settings
from tasks.webhooks.deliveries import DeliveryState
from tasks.worker_registry import WorkerRegistry
from tests.support.faulty_gpu import GPU_COMMANDS
from tests.support.faulty_worker import GATE, FaultyModel
from tests.support.jobs import recorded
from tests.support.paths import ROOT
from tests.support.receivers import Receiver
from tests.support.servers import spawn, wait_until
from tests.support.service import settings_of

HOST = "faults"
WORKERS = ("gpu0", "gpu1")
#: All lists of the cluster's model queues, for the celery command.
QUEUES = f"model.u2netp,gpu.{HOST}.0,gpu.{HOST}.1"
#: Files by which tests command the faulty model.
COMMANDS = ("slow-start", "slow", "hung", "hang", "blind", "stop-after-pop", GATE)
_PASSWORD = "test"
_KEYS = ("access", "secret-of-the-tests")
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
    settings: Mapping[str, str]
    #: Module of the workers' Celery application, and the model that they serve.
    app: str = "tests.support.faulty_app"
    model: str = "u2netp"
    ready_seconds: float = _READY_SECONDS
    members: dict[str, Member] = field(default_factory=dict)
    #: Of this process; `heal` renews them, so that no breaker is open when a test begins.
    services: Services = field(init=False)

    @property
    def store(self) -> JobStore:
        return self.services.runtime.job_store

    @property
    def redis(self) -> Redis:
        return self.services.runtime.redis

    @property
    def registry(self) -> WorkerRegistry:
        return self.services.runtime.registry

    @property
    def environment(self) -> dict[str, str]:
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**self._our_settings(), "PYTHONPATH": os.pathsep.join(path)}

    def _our_settings(self) -> dict[str, str]:
        return {
            "RMBG_REDIS_URL": valkey_url(self.valkey_port, _PASSWORD),
            "RMBG_S3_ENDPOINT": f"http://127.0.0.1:{self.store_ports.s3}",
            "RMBG_S3_ACCESS_KEY": _KEYS[0],
            "RMBG_S3_SECRET_KEY": _KEYS[1],
            "RMBG_MODEL_DIR": str(self.folder),
            "RMBG_HOST": HOST,
            **self.settings,
        }

    # -- processes -----------------------------------------------------------------------------

    def start_servers(self) -> None:
        self.start(valkey_service(self.folder / "valkey", self.valkey_port, _PASSWORD))
        self.start(store_service(self.folder / "store", self.store_ports, *_KEYS))

    def start_worker(self, index: int = 0, *, wait: bool = True, **settings: str) -> str:
        name = f"gpu{index}"
        ready = probes.worker_ready(self.environment["RMBG_REDIS_URL"], at(name))
        queues = f"gpu.{HOST}.{index},{model_queue(self.model)}"
        self.start(self._celery(name, queues, ready, **settings), wait=wait)
        return name

    def start_io(self) -> None:
        self.start(self._celery("io0", "webhooks", always_ready, "-P", "threads", "-c", "8"))

    def _celery(
        self, name: str, queues: str, probe: local_service.Probe, *pool: str, **settings: str
    ) -> Service:
        command = (*self._application, "worker", "-n", at(name), "-Q", queues, *pool)
        env = {**self.environment, **settings}
        return Service(name, command, env=env, probe=probe, grace=60)

    @property
    def _application(self) -> tuple[str, ...]:
        return local_service.script("celery"), "-A", self.app

    def celery(self, *arguments: str) -> str:
        """What a stock celery command prints."""
        command = (*self._application, *arguments)
        env = supervisor.environment(Service("celery", command, env=self.environment))
        done = subprocess.run(
            command, env=env, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def start(self, service: Service, *, wait: bool = True) -> None:
        started = time.time()
        process = spawn(service, self.folder / f"{service.name}.log")
        self.members[service.name] = Member(service, process, started)
        if wait:
            wait_until(service.probe, since=started, seconds=self.ready_seconds)

    def signal(self, number: signal.Signals, *names: str) -> None:
        for name in names:
            self.members[name].process.send_signal(number)

    @contextmanager
    def standing(self, *names: str) -> Iterator[None]:
        """Members that take connections, if they are servers, and do nothing."""
        self.signal(signal.SIGSTOP, *names)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT, *names)

    def kill(self, *names: str) -> None:
        """kill -9 of the processes and all that is left of their groups."""
        for name in names:
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

    @contextmanager
    def asleep(self, name: str) -> Iterator[None]:
        """A worker whose parent, and all below it, stand still."""
        parent = psutil.Process(self.members[name].process.pid)
        family = [parent, *parent.children(recursive=True)]
        for each in family:
            each.suspend()
        try:
            yield
        finally:
            for each in family:
                each.resume()

    def stopped(self) -> list[str]:
        """The workers that stand still by a SIGSTOP."""
        return [
            name
            for name in WORKERS
            if psutil.Process(self.members[name].process.pid).status() == psutil.STATUS_STOPPED
        ]

    def restart(self, *names: str, wait: bool = True) -> None:
        for name in names:
            self.start(self.members[name].service, wait=wait)

    def terminate(self, name: str) -> subprocess.Popen[bytes]:
        process = self.members[name].process
        process.terminate()
        return process

    def end(self, name: str) -> None:
        """SIGTERM, and as much time as it takes."""
        process = self.terminate(name)
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
        for name in (*COMMANDS, *GPU_COMMANDS):
            (self.folder / name).unlink(missing_ok=True)
        for name in self.members:
            wait_until(self._start_and_probe(name), since=0.0, seconds=self.ready_seconds)
        self.disconnect()
        self.services = Services.from_settings(settings_of(self._our_settings()))
        for worker in self.registry.workers():
            self.registry.undrain(worker.name)

    def _start_and_probe(self, name: str) -> local_service.Probe:
        """Probe a member that is started, again and again if need be, as supervisors do."""

        def probe(_since: float) -> None:
            if self.members[name].process.poll() is not None:
                # Celery ends a worker whose child was killed while it started.
                self.restart(name, wait=False)
            member = self.members[name]
            member.service.probe(member.started)

        if self.members[name].process.poll() is not None:
            self.restart(name, wait=False)
        return probe

    def disconnect(self) -> None:
        """Close this process's connections: one left open fails whichever test runs."""
        if hasattr(self, "services"):
            self.services.runtime.close()

    def end_all(self) -> None:
        self.disconnect()
        self.kill(*reversed(self.members))
        for member in self.members.values():
            member.service.remove_leftovers()

    def logs(self) -> str:
        parts = []
        for path in sorted(self.folder.glob("*.log")):
            if not path.name.startswith(("valkey", "weed")):
                parts += [f"== {path.name}", *path.read_text(errors="replace").splitlines()[-40:]]
        return "\n".join(parts)

    # -- jobs ----------------------------------------------------------------------------------

    def submit(
        self, data: bytes, priority: Priority = Priority.NORMAL, webhook_url: str | None = None
    ) -> str:
        # One owner has twice as many jobs as another. Webhooks are signed for a known owner.
        owner = ANONYMOUS if webhook_url else Owner("aab"[crc32(data) % 3], "tenant")
        submission = Submission(
            owner=owner,
            image=InputFile(io.BytesIO(data), len(data), "test.png"),
            priority=priority,
            webhook_url=webhook_url,
            cache=False,
        )
        return self.services.submissions.submit(submission, "test").job.task_id

    def submit_many(
        self, count: int, *, first: int = 0, priority: Priority = Priority.NORMAL
    ) -> dict[str, bytes]:
        """Pictures by the ids of their jobs."""
        pictures = [picture(number=number) for number in range(first, first + count)]
        return {self.submit(each, priority): each for each in pictures}

    def job(self, task_id: str) -> Job:
        return recorded(self.store, task_id)

    def usable(self, *names: str) -> bool:
        """Would one of these workers be sent jobs?"""
        wanted = {at(name) for name in names}
        return any(each.usable for each in self.registry.workers() if each.name in wanted)

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Ask until it holds."""
        end = time.monotonic() + seconds
        while True:
            # A server that a test has killed may be away for a moment.
            with suppress(OSError, TaskError):
                if condition():
                    return
            assert time.monotonic() < end, f"{what} did not come within {seconds} s\n{self.logs()}"
            time.sleep(0.05)

    def await_processing(self) -> None:
        self.wait_for(lambda: self.store.ids(Status.PROCESSING), 20, "a running job")

    def start_job(self, data: bytes) -> tuple[str, str]:
        """A job of a SLOW_ONCE or HANG_ONCE picture whose model has begun, and who runs it."""
        task_id = self.submit(data)
        marks = [self.folder / "slow", self.folder / "hung"]
        self.wait_for(lambda: any(each.exists() for each in marks), 30, f"{task_id}'s run")
        return task_id, str(self.job(task_id).worker).partition("@")[0]

    def await_claimable(self, task_id: str, seconds: float) -> None:
        """Until the job waits again, or was begun again."""

        def claimable() -> bool:
            found = self.job(task_id)
            return found.status is Status.QUEUED or found.attempts > 1

        self.wait_for(claimable, seconds, f"{task_id} claimable again")

    def wait_final(
        self,
        task_ids: Iterable[str],
        seconds: float,
        *,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Job]:
        """All jobs, once all are final."""
        all_ids = list(task_ids)
        left = set(all_ids)

        def all_final() -> bool:
            meanwhile()
            left.difference_update([each for each in left if self.job(each).status.final])
            return not left

        self.wait_for(all_final, seconds, f"the end of {len(all_ids)} jobs")
        return [self.job(each) for each in all_ids]

    def succeed(self, jobs: dict[str, bytes], seconds: float) -> list[Job]:
        """All jobs, once all have succeeded, exactly once."""
        done = self.wait_final(jobs, seconds)
        self.assert_exactly_once(jobs)
        return done

    def assert_exactly_once(self, jobs: dict[str, bytes]) -> None:
        """Every job succeeded, its one result object is there, and it has the right bytes."""
        for task_id, data in jobs.items():
            done = self.job(task_id)
            assert done.status is Status.SUCCEEDED, done
            assert done.result_key is not None
            result = self.services.runtime.object_store.get(done.result_key)
            right = remove_background(data, Options(), FaultyModel()).data
            assert result == right, f"{done}\n{result.hex()}\n{right.hex()}\n{self.logs()}"
            self.assert_one_result(done)

    def assert_one_result(self, done: Job) -> None:
        # A late run removes what it stored as soon as its final write was refused.
        self.wait_for(
            lambda: self._results(done.task_id) == [done.result_key],
            20,
            f"one result of {done.task_id} alone",
        )

    def ended(self, task_ids: Iterable[str]) -> bool:
        return all(self.job(each).status.final for each in task_ids)

    def delivered(self, *task_ids: str) -> bool:
        """Has the one event of each task arrived?"""
        events = [self.services.runtime.deliveries.of(task_id) for task_id in task_ids]
        return all([row.state for row in rows] == [DeliveryState.DELIVERED] for rows in events)

    def verified(self, got: Receiver) -> list[str]:
        """The tasks whose webhooks arrived, with verified signatures."""
        webhook = Webhook(self.settings["RMBG_WEBHOOK_SECRET"])
        return [
            webhook.verify(body, headers)["data"]["task_id"]
            for body, headers in zip(got.bodies, got.headers, strict=True)
        ]

    def _results(self, task_id: str) -> list[str]:
        """The keys of all results that runs of a job left in the bucket."""
        return list(self.services.runtime.object_store.list(results_prefix(task_id)))


def at(name: str) -> str:
    """The name of a member as a worker."""
    return f"{name}@{HOST}"


@contextmanager
def cluster(folder: Path, **settings: str) -> Iterator[Cluster]:
    """Two workers with the faulty model and one I/O worker, with servers of their own."""
    # The parent looks at the model's file; the faulty model does without it.
    model = get_spec("u2netp")
    fetched = fetch_model(model, Settings.load().model_dir)
    (folder / model.file_name).symlink_to(fetched)
    with started(partial(Cluster, folder, settings=settings)) as made:
        yield made


@contextmanager
def started(make: Callable[..., Cluster]) -> Iterator[Cluster]:
    """A cluster on free ports, with its servers, workers and I/O worker."""
    with reserved_ports() as ports:
        made = make(valkey_port=ports[0], store_ports=StorePorts.take(ports[1:]))
        try:
            made.start_servers()
            made.start_io()
            for index in range(len(WORKERS)):
                made.start_worker(index, wait=False)
            yield made
        finally:
            made.end_all()


def picture(red: int = 200, number: int = 0) -> bytes:
    """A small picture whose first pixel commands the faulty model; each number looks different."""
    pixels = np.full((24, 32, 3), 128, np.uint8)
    pixels[..., 0] = red
    pixels[:, :, 1] = number % 256
    pixels[:, :, 2] = number // 256
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
