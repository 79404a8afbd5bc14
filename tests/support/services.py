"""Services on a Redis database of a test's own, or with some parts of its own."""

from dataclasses import replace
from typing import Any

from api.services import Services
from api.settings import ApiSettings
from api.waiting import TaskWaiter
from tasks.jobs.cache import ResultCache
from tasks.jobs.job_objects import Eraser
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.task_listing import TaskList
from tasks.runtime import Runtime


def services_on(server_settings: dict[str, object], **settings: object) -> Services:
    """Return services with these settings."""
    return Services.from_settings(ApiSettings.load(**{**server_settings, **settings}))


def with_parts(services: Services, **parts: object) -> Services:
    """Return the services over a runtime that has these parts and builds the others from them."""
    made = services.runtime
    store: Any = parts.get("object_store", made.object_store)
    runtime = Runtime(
        made.settings,
        redis=made.redis,
        celery_app=made.celery_app,
        object_store=store,
    )
    if "job_store" in parts:
        jobs: Any = parts["job_store"]
        runtime.dispatcher = JobDispatcher(made.celery_app, jobs)
        runtime.result_cache = ResultCache(made.redis, jobs)
        runtime.task_list = TaskList(made.redis, jobs)
        runtime.eraser = Eraser(jobs, made.object_store)
    for name, part in parts.items():
        setattr(runtime, name, part)
    return replace(services, runtime=runtime, waiter=TaskWaiter(runtime))


def with_settings(services: Services, **settings: object) -> Services:
    """Return the services with some settings of their own, over the same runtime."""
    return replace(services, settings=services.settings.model_copy(update=settings))
