"""Parts of the service on an empty database, and what stands for its callers and workers."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest
from celery import Celery
from click import Command
from redis import Redis

from tasks.app import create_celery
from tasks.cli.jobs import jobs
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.clock import Clock
from tests.support.commands import Operator
from tests.support.equal_jobs import EqualJobs
from tests.support.jobs import make_job
from tests.support.outbox import Post
from tests.support.queues import Queues
from tests.support.receivers import receiver
from tests.support.services import services_on
from tests.support.submissions import PICTURE
from tests.support.workers import lasting_registry


@pytest.fixture
def clock() -> Clock:
    """It stands still, for stores and registries alike."""
    return Clock()


@pytest.fixture
def settings(server_settings: dict[str, object]) -> Settings:
    return Settings.load(**server_settings, model="u2netp")


@pytest.fixture
def emptied(server_settings: dict[str, object]) -> Settings:
    """With a bucket that is empty, for those who look at the whole of it."""
    bucket = f"{server_settings['s3_bucket']}-emptied"
    settings = Settings.load(**{**server_settings, "s3_bucket": bucket})
    store = ObjectStore.from_settings(settings)
    store.ensure_bucket()
    for key in store.list(""):
        store.delete(key)
    return settings


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with create_celery(settings) as app:
        yield app


@pytest.fixture
def runtime(settings: Settings, app: Celery, redis: Redis, objects: ObjectStore) -> Runtime:
    return Runtime(settings, redis=redis, celery_app=app, object_store=objects)


@pytest.fixture
def store(redis: Redis, clock: Clock) -> JobStore:
    return JobStore(redis, clock=clock)


@pytest.fixture
def registry(redis: Redis) -> WorkerRegistry:
    return lasting_registry(redis)


@pytest.fixture
def queues(redis: Redis, app: Celery) -> Queues:
    return Queues(redis, app)


@pytest.fixture
def equal(server_settings: dict[str, object]) -> EqualJobs:
    return EqualJobs(services_on(server_settings))


@pytest.fixture
def submit(store: JobStore, objects: ObjectStore) -> Callable[..., str]:
    """Makes a job of a file; returns its id."""

    def submit(data: bytes = PICTURE) -> str:
        job = make_job()
        objects.put(job.original_key, io.BytesIO(data), len(data), "image/png")
        return store.create(job).job.task_id

    return submit


@pytest.fixture
def post(redis: Redis, redis_url: str, objects: ObjectStore) -> Iterator[Post]:
    def behave(request: BaseHTTPRequestHandler, before: int) -> None:
        post.behave(request, before)

    with ThreadPoolExecutor(8) as threads, receiver(behave) as got:
        post = Post(redis, redis_url, objects, threads, got)
        yield post
        post.app.close()


@pytest.fixture
def command() -> Command:
    """The command that the operator gives."""
    return jobs


@pytest.fixture
def operator(
    command: Command, app: Celery, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Operator:
    monkeypatch.setenv("RMBG_REDIS_URL", redis_url)
    return Operator(command, app, redis)
