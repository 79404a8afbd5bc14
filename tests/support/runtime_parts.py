"""Services in which some of the runtime's parts are a test's own."""

from dataclasses import replace
from typing import Any

from api.services import Services
from api.waiting import TaskWaiter
from tasks.jobs.cache import ResultCache
from tasks.jobs.job_objects import Eraser
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.task_listing import TaskList
from tasks.runtime import Runtime


def with_parts(services: Services, **parts: object) -> Services:
    """The services over a runtime that has these parts, and builds the others from them."""
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
