"""All checks, in the order in which their failures explain each other."""

from collections.abc import Iterator

from deploy.doctor.findings import Finding, Level, fail, ok, warn
from deploy.doctor.model_checks import check_model
from deploy.doctor.redis_checks import check_redis
from deploy.doctor.store_checks import check_store
from deploy.doctor.webhook_checks import check_webhooks
from deploy.doctor.work_checks import (
    check_dead_letters,
    check_io_worker,
    check_queues,
    check_workers,
)
from tasks.app import create_celery
from tasks.connection import connect
from tasks.errors import QueueUnavailableError, SettingsError
from tasks.fleet import Fleet
from tasks.settings import Settings
from tasks.storage import MinioStore
from tasks.store import JobStore
from tasks.webhooks.store import DeliveryStore


def examine() -> Iterator[Finding]:
    """Look at everything; each finding comes as soon as it is known."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        yield fail("settings", str(error), "correct them; docs/settings.md has them all")
        return
    yield ok("settings", f"all valid; model {settings.model}, host {settings.host}")
    url = settings.redis_url.get_secret_value()
    with connect(url) as client:
        redis = list(check_redis(client, url))
        yield from redis
        yield from check_store(MinioStore.from_settings(settings), settings)
        store, fleet = JobStore(client), Fleet(client)
        if redis[0].level is Level.FAIL and redis[0].subject == "redis":
            yield from check_model(settings, served=False)
            yield warn("workers", "not known while Redis is away", "bring Redis back first")
            return
        yield from _examine_work(settings, store, fleet, DeliveryStore(client))


def _examine_work(
    settings: Settings, store: JobStore, fleet: Fleet, deliveries: DeliveryStore
) -> Iterator[Finding]:
    try:
        workers = fleet.workers()
        served = any(each.usable and each.model == settings.model for each in workers)
        yield from check_model(settings, served=served)
        yield from check_workers(fleet, settings)
        with create_celery(settings) as app:
            yield check_io_worker(app)
        yield from check_queues(store, fleet, settings)
        yield check_dead_letters(store)
        yield check_webhooks(deliveries, settings)
    except QueueUnavailableError as error:
        yield fail("redis", str(error), "it answered a moment ago: look at its log")
