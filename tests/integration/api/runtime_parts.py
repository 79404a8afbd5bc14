"""Services in which some of the runtime's parts are a test's own."""

from dataclasses import replace

from api.idempotency import IdempotencyGuard
from api.services import Services
from tasks.runtime import Runtime


def with_parts(services: Services, **parts: object) -> Services:
    """The services over a runtime that has these parts, and builds the others from them."""
    made = services.runtime
    runtime = Runtime(
        made.settings, redis=made.redis, celery_app=made.celery_app, s3_pool=made.s3_pool
    )
    for name, part in parts.items():
        setattr(runtime, name, part)
    idempotency = IdempotencyGuard(runtime.redis)
    return replace(services, runtime=runtime, idempotency=idempotency)
