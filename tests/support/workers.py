"""What a model worker's child has, for a test's own process, and workers that stay alive."""

import threading
import time
from collections.abc import Callable

from redis import Redis

from inference.decode import Decoder, decode
from inference.probe import ImageLimits
from tasks.runtime import Runtime
from tasks.worker.runner import Runner
from tasks.worker_registry import WorkerRegistry
from tests.support.models import FakeModel


def lasting_registry(redis: Redis) -> WorkerRegistry:
    """A registry whose heartbeats count for an hour: to a real one a slow test is a dead worker."""
    return WorkerRegistry(redis, clock=lambda: time.time() + 3600)


def make_runner(
    runtime: Runtime,
    model: FakeModel,
    *,
    worker: str = "gpu0@h",
    exit_child: Callable[[], None] = lambda: None,
    decoder: Decoder = decode,
) -> Runner:
    return Runner(
        job_store=runtime.job_store,
        object_store=runtime.object_store,
        registry=runtime.registry,
        model=model,
        model_lock=threading.Lock(),
        limits=ImageLimits(),
        worker=worker,
        exit_child=exit_child,
        decoder=decoder,
    )
