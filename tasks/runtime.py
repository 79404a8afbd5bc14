"""The composition root: the clients, stores and services of one process, each built once.

The API, the workers, the command line, the doctor and the tests take them from here.
"""

import random
from functools import cached_property, partial
from typing import Final, Self, cast

import urllib3
from celery import Celery
from redis import Redis

from tasks.accounts.api_keys import ApiKeys
from tasks.app import create_celery
from tasks.jobs.batches import BatchStore
from tasks.jobs.cache import ResultCache
from tasks.jobs.job_objects import Eraser
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import JobStore, JobWatcher
from tasks.jobs.task_listing import TaskList
from tasks.net.http_client import HttpClient
from tasks.net.url_guard import AllowList, UrlGuard
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.storage.object_store import ObjectStore
from tasks.uploads.service import UploadService
from tasks.uploads.store import UploadStore
from tasks.webhooks.deliveries import DeliveryStore
from tasks.webhooks.retry import HostBreaker, RetryPolicy
from tasks.webhooks.sending import (
    DeliveryRunner,
    WebhookDispatcher,
    render_payload,
    signing_secrets,
)
from tasks.worker_registry import WorkerRegistry

#: The attribute of a Celery application that keeps its process's runtime.
_ATTRIBUTE: Final = "rmbg_runtime"


class Runtime:
    """Builds each part at its first use; nothing connects before a part is called.

    Two threads that use a part for the first time at once may build it twice; one of the two is
    kept, and no part holds anything that the other would miss.

    Args:
        settings: what the parts are built from.
        redis: the client that all parts share.
        celery_app: sends the messages; one of these settings is made if none is given.
        s3_pool: the connections to the object store; urllib3's defaults if none are given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        redis: Redis,
        celery_app: Celery | None = None,
        s3_pool: urllib3.PoolManager | None = None,
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.s3_pool = s3_pool
        self._given_app = celery_app

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        redis_timeout: float = 3.0,
        celery_app: Celery | None = None,
        s3_pool: urllib3.PoolManager | None = None,
    ) -> Self:
        """Build a runtime with a Redis client of its own.

        Args:
            settings: what the parts are built from.
            redis_timeout: seconds after which a silent Redis counts as away.
            celery_app: see the class.
            s3_pool: see the class.
        """
        client = connect(settings.redis_url.get_secret_value(), timeout=redis_timeout)
        return cls(settings, redis=client, celery_app=celery_app, s3_pool=s3_pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to Redis, and the Celery application if it was made here."""
        self.redis.close()
        if self._given_app is None and "celery_app" in vars(self):
            self.celery_app.close()

    @cached_property
    def celery_app(self) -> Celery:
        """The application through which messages are sent."""
        return self._given_app or create_celery(self.settings)

    @cached_property
    def job_store(self) -> JobStore:
        """The records of jobs, in Redis."""
        return JobStore(self.redis)

    @cached_property
    def object_store(self) -> ObjectStore:
        """The images, in the S3 bucket."""
        return ObjectStore.from_settings(self.settings, self.s3_pool)

    @cached_property
    def registry(self) -> WorkerRegistry:
        """The worker registry."""
        return WorkerRegistry(self.redis)

    @cached_property
    def router(self) -> Router:
        """Chooses the queue of a job."""
        return Router(self.redis, routing=self.settings.routing)

    @cached_property
    def dispatcher(self) -> JobDispatcher:
        """Sends the messages of jobs."""
        return JobDispatcher(self.celery_app, self.job_store)

    @cached_property
    def result_cache(self) -> ResultCache:
        """Results that an equal job may reuse."""
        return ResultCache(self.redis, self.job_store)

    @cached_property
    def batches(self) -> BatchStore:
        """The records of batches."""
        return BatchStore(self.redis)

    @cached_property
    def uploads(self) -> UploadService:
        """Resumable uploads."""
        return UploadService(
            store=UploadStore(self.redis),
            object_store=self.object_store,
            seconds=self.settings.retention_hours * 3600,
        )

    @cached_property
    def deliveries(self) -> DeliveryStore:
        """The records of webhook deliveries."""
        return DeliveryStore(self.redis)

    @cached_property
    def webhook_dispatcher(self) -> WebhookDispatcher:
        """Sends the messages of deliveries that are due."""
        return WebhookDispatcher(self.celery_app, self.redis, self.deliveries, self.host_breaker)

    @cached_property
    def host_breaker(self) -> HostBreaker:
        """The circuit breakers of the hosts that webhooks go to."""
        return HostBreaker(self.redis)

    @cached_property
    def delivery_runner(self) -> DeliveryRunner:
        """Makes attempts at deliveries."""
        settings = self.settings
        return DeliveryRunner(
            self.deliveries,
            self.host_breaker,
            RetryPolicy(settings.webhook_pauses, random.random),
            partial(render_payload, self.job_store, self.batches, self.object_store),
            self.http_client,
            partial(signing_secrets, self.api_keys, settings.webhook_secret),
        )

    @cached_property
    def api_keys(self) -> ApiKeys:
        """The API keys and their owners."""
        return ApiKeys(self.redis)

    @cached_property
    def task_list(self) -> TaskList:
        """The tasks of an owner, page by page."""
        return TaskList(self.redis, self.job_store)

    @cached_property
    def watcher(self) -> JobWatcher:
        """Waits for the end of a job."""
        return JobWatcher(self.redis)

    @cached_property
    def eraser(self) -> Eraser:
        """Removes a job with its images."""
        return Eraser(self.job_store, self.object_store)

    @cached_property
    def url_guard(self) -> UrlGuard:
        """Refuses addresses that the service must not call."""
        return UrlGuard(AllowList.parse(self.settings.url_allow))

    @cached_property
    def http_client(self) -> HttpClient:
        """Calls addresses that clients name, past the guard."""
        return HttpClient(self.url_guard)


def runtime_of(app: Celery) -> Runtime:
    """Return the runtime of a Celery application, built from the environment at the first call.

    A process has one Celery application, hence one runtime; a spawned child unpickles an
    application of its own, which does not carry its parent's.

    Raises:
        SettingsError: a setting is wrong.
    """
    if not hasattr(app, _ATTRIBUTE):
        setattr(app, _ATTRIBUTE, Runtime.from_settings(Settings.load(), celery_app=app))
    return cast("Runtime", getattr(app, _ATTRIBUTE))
