"""What the fault tests share beside the cluster: scenes that are set before something is broken."""

import signal
import subprocess

from api.services import Services
from deploy.local import service, supervisor
from deploy.local.service import Service
from tasks.jobs.job import Status
from tasks.redis_client import connect
from tasks.worker_registry import WorkerRegistry
from tests.support.cluster import HOST, Cluster, job, picture, submit, wait_for
from tests.support.faulty_worker import SLOW

GPU0, GPU1 = f"gpu0@{HOST}", f"gpu1@{HOST}"
#: All lists of the cluster's model queues, for the celery command.
QUEUES = f"model.u2netp,gpu.{HOST}.0,gpu.{HOST}.1"


def start_slow_job(made: Cluster, services: Services) -> tuple[str, dict[str, bytes], str]:
    """A job that runs for 2 s, its picture, and the member that it runs on."""
    data = picture(red=SLOW)
    task_id = submit(services, data)
    wait_for(
        lambda: job(services, task_id).status is Status.PROCESSING, 20, made, f"{task_id}'s run"
    )
    return task_id, {task_id: data}, str(job(services, task_id).worker).partition("@")[0]


def await_claimable(made: Cluster, services: Services, task_id: str, seconds: float) -> None:
    """Until the job waits again, or was begun again."""

    def claimable() -> bool:
        found = job(services, task_id)
        return found.status is Status.QUEUED or found.attempts > 1

    wait_for(claimable, seconds, made, f"{task_id} claimable again")


def signal_workers(made: Cluster, number: signal.Signals) -> None:
    for name in ("gpu0", "gpu1"):
        made.signal(name, number)


def celery(made: Cluster, *arguments: str) -> str:
    """What a stock celery command prints."""
    command = (service.script("celery"), "-A", "tests.support.faulty_app", *arguments)
    env = supervisor.environment(Service("celery", command, env=made.environment))
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def usable(made: Cluster, worker: str) -> bool:
    """Would a worker be sent jobs?"""
    registry = WorkerRegistry(connect(made.redis_url))
    return any(each.name == worker and each.usable for each in registry.workers())
