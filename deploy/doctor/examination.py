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
from tasks.errors import QueueUnavailableError, SettingsError
from tasks.runtime import Runtime
from tasks.settings import Settings


def examine() -> Iterator[Finding]:
    """Look at everything; each finding comes as soon as it is known."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        yield fail("settings", str(error), "correct them; docs/settings.md has them all")
        return
    yield ok("settings", f"all valid; model {settings.model}, host {settings.host}")
    url = settings.redis_url.get_secret_value()
    with Runtime.from_settings(settings) as runtime:
        redis = list(check_redis(runtime.redis, url))
        yield from redis
        yield from check_store(runtime.object_store, settings)
        if redis[0].level is Level.FAIL and redis[0].subject == "redis":
            yield from check_model(settings, served=False)
            yield warn("workers", "not known while Redis is away", "bring Redis back first")
            return
        yield from _examine_work(runtime)


def _examine_work(runtime: Runtime) -> Iterator[Finding]:
    settings, registry, job_store = runtime.settings, runtime.registry, runtime.job_store
    try:
        workers = registry.workers()
        served = any(each.usable and each.model == settings.model for each in workers)
        yield from check_model(settings, served=served)
        yield from check_workers(registry, settings)
        yield check_io_worker(runtime.celery_app)
        yield from check_queues(job_store, registry, settings)
        yield check_dead_letters(job_store)
        yield check_webhooks(runtime.deliveries, settings)
    except QueueUnavailableError as error:
        yield fail("redis", str(error), "it answered a moment ago: look at its log")
