"""The composition root: the clients, stores and services of one process, each built once.

The API, the workers, the command line, the doctor and the tests take them from here.
"""

import random
import ssl
from functools import cache, partial
from typing import Final, Self, cast

from celery import Celery
from redis import Redis

from tasks.api_keys import ApiKeys
from tasks.app import create_celery
from tasks.capacity import Capacity
from tasks.jobs.batches import BatchStore
from tasks.jobs.cache import ResultCache
from tasks.jobs.job_objects import Eraser
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import JobStore, JobWatcher
from tasks.jobs.task_listing import TaskList
from tasks.net.http_client import HttpClient
from tasks.net.url_guard import AllowList, UrlGuard
from tasks.object_store import ObjectStore
from tasks.quotas import Quotas
from tasks.redis_client import RedisClock, connect
from tasks.settings import Settings
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
    """The parts of one process; nothing connects before a part is called.

    Args:
        settings: what the parts are built from.
        redis: the client that all parts share; one of these settings is made if none is given.
        redis_timeout: seconds after which a silent Redis counts as away, for that client.
        celery_app: sends the messages; one of these settings is made if none is given.
        object_store: the images; over urllib3's default connections if none is given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        redis: Redis | None = None,
        redis_timeout: float = 3.0,
        celery_app: Celery | None = None,
        object_store: ObjectStore | None = None,
    ) -> None:
        self.settings = settings
        self.redis = redis or connect(settings.redis_address, timeout=redis_timeout)
        self._given_app = celery_app
        self.celery_app = celery_app or create_celery(settings)
        self.object_store = object_store or ObjectStore.from_settings(settings)
        self.capacity = Capacity(self.redis, settings.data_dir)
        # Hosts compare these times within seconds.
        shared_clock = RedisClock(self.redis)
        self.registry = WorkerRegistry(self.redis, clock=shared_clock)
        self.api_keys = ApiKeys(self.redis)
        self.quotas = Quotas.from_settings(self.redis, settings)
        self.url_guard = UrlGuard(AllowList.parse(settings.url_allow))
        # To read the system's authorities takes 20 ms, which each webhook would cost.
        tls = cache(ssl.create_default_context)
        self.http_client = HttpClient(self.url_guard, tls, user_agent=settings.user_agent)

        self.job_store = JobStore(self.redis)
        self.router = Router(self.redis, routing=settings.routing, clock=shared_clock)
        self.dispatcher = JobDispatcher(self.celery_app, self.job_store)
        self.result_cache = ResultCache(self.redis, self.job_store)
        self.batches = BatchStore(self.redis)
        self.task_list = TaskList(self.redis, self.job_store)
        self.watcher = JobWatcher(self.redis)
        self.eraser = Eraser(self.job_store, self.object_store)
        self.uploads = UploadService(
            store=UploadStore(self.redis),
            object_store=self.object_store,
            seconds=settings.retention_hours * 3600,
        )

        self.deliveries = DeliveryStore(self.redis)
        self.host_breaker = HostBreaker(self.redis)
        self.webhook_dispatcher = WebhookDispatcher(
            self.celery_app, self.redis, self.deliveries, self.host_breaker
        )
        self.delivery_runner = DeliveryRunner(
            self.deliveries,
            self.host_breaker,
            RetryPolicy(settings.webhook_pauses, random.random),
            partial(render_payload, self.job_store, self.batches, self.object_store),
            self.http_client,
            partial(signing_secrets, self.api_keys, settings.webhook_secret),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to Redis, and the Celery application if it was made here."""
        self.redis.close()
        if self._given_app is None:
            self.celery_app.close()


def runtime_of(app: Celery) -> Runtime:
    """Return the runtime of a Celery application, built from the environment at the first call.

    A process has one Celery application, hence one runtime; a spawned child unpickles an
    application of its own, which does not carry its parent's.

    Raises:
        SettingsError: a setting is wrong.
    """
    if not hasattr(app, _ATTRIBUTE):
        setattr(app, _ATTRIBUTE, Runtime(Settings.load(), celery_app=app))
    return cast("Runtime", getattr(app, _ATTRIBUTE))
