"""An operator who gives the celery commands of the project, and jobs to give them about."""

import json
from typing import Any, Final

from celery import Celery
from celery.bin.base import CLIContext
from click import Command
from click.testing import CliRunner, Result
from redis import Redis

from tasks import redis_keys
from tasks.jobs.job import Status
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.store import MAX_CRASHES, JobStore
from tasks.worker_registry import WorkerRegistry
from tests.support.jobs import claim, finish, make_job, recorded

QUEUE: Final = "model.u2netp"
WORKER: Final = "gpu0@testhost"


def crash(store: JobStore, task_id: str) -> None:
    """Crash a worker over a job until the job is poison."""
    for _ in range(MAX_CRASHES):
        claim(store, task_id, "w/1/x")
        store.crash(task_id, holder="w/1/")


class Operator:
    """Runs one of the commands with arguments, in this process."""

    def __init__(self, command: Command, app: Celery, redis: Redis) -> None:
        self._command, self._app, self.redis = command, app, redis
        self.store, self.registry = JobStore(redis), WorkerRegistry(redis)

    def run(self, *arguments: str, answers: str = "", status: int = 0) -> Result:
        """Run it; it ends with that exit status."""
        context = CLIContext(app=self._app, no_color=True, workdir=None)
        result = CliRunner().invoke(self._command, arguments, obj=context, input=answers)
        assert result.exit_code == status, (result.output, result.exception)
        assert "hush-hush" not in result.output, "the address of a webhook may hold a secret"
        return result

    def errors(self, *arguments: str, answers: str = "", status: int = 1) -> str:
        """Run it; what it says on the standard error stream."""
        return self.run(*arguments, answers=answers, status=status).stderr

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Run it with `--json`; its output is one JSON document and nothing else."""
        return dict(json.loads(self.run(*arguments, "--json", status=status).stdout))

    def make(self, state: str = "queued", *, queue: str = QUEUE, model: str = "u2netp") -> str:
        """Make a job of a state, or `dead`; one that waits has a message."""
        job = self.store.create(make_job(queue=queue, model=model)).job
        task_id = job.task_id
        if state == "queued":
            JobDispatcher(self._app, self.store).send(job)
        elif state == "canceled":
            self.store.cancel(task_id)
        elif state == "dead":
            crash(self.store, task_id)
        elif state == "processing":
            assert claim(self.store, job) == "claimed"
        else:
            finish(self.store, job, Status(state))
        return task_id

    def damage(self, task_id: str) -> str:
        """Make a record unreadable; returns its id."""
        self.redis.hset(redis_keys.job_key(task_id), "options", "{no json")
        return task_id

    def status(self, task_id: str) -> str:
        return recorded(self.store, task_id).status.value
