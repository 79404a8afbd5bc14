"""The celery commands in this process, on a Redis database of their own."""

from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from redis import Redis

from tasks import redis_keys
from tasks.app import create_celery
from tasks.cli.jobs import jobs
from tasks.jobs.job import Status
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.commands import QUEUE, Make, Run, crash
from tests.support.jobs import make_job


@pytest.fixture
def settings(server_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> Settings:
    # A database of its own: what is listed and purged is this test's alone.
    own = str(server_settings["redis_url"])
    monkeypatch.setenv("RMBG_REDIS_URL", own)
    return Settings.load()


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def store(client: Redis) -> JobStore:
    return JobStore(client)


@pytest.fixture
def registry(client: Redis) -> WorkerRegistry:
    return WorkerRegistry(client)


@pytest.fixture
def app(settings: Settings, client: Redis) -> Iterator[Celery]:
    assert client.dbsize() == 0
    with create_celery(settings) as app:
        yield app


@pytest.fixture
def run(app: Celery) -> Run:
    def run(*arguments: str, answers: str = "", status: int = 0) -> Result:
        context = CLIContext(app=app, no_color=True, workdir=None)
        result = CliRunner().invoke(jobs, arguments, obj=context, input=answers)
        assert result.exit_code == status, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def make(store: JobStore, app: Celery) -> Make:
    """Makes jobs of each state; those that wait have a message."""

    def make(state: str = "queued", *, queue: str = QUEUE) -> str:
        job = store.create(make_job(queue=queue)).job
        task_id = job.task_id
        if state == "queued":
            JobDispatcher(app, store).send(job)
        elif state == "canceled":
            store.cancel(task_id)
        elif state == "dead":
            crash(store, task_id)
        else:
            assert store.claim(task_id, token="w/1/x", worker="w") == "claimed"
            if state != "processing":
                store.finish(task_id, token="w/1/x", status=Status(state))
        return task_id

    return make


@pytest.fixture
def damage(client: Redis) -> Callable[[str], str]:
    def damage(task_id: str) -> str:
        client.hset(redis_keys.job_key(task_id), "options", "{no json")
        return task_id

    return damage
