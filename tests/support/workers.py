"""What a model worker's child has, for a test's own process."""

import threading
from collections.abc import Callable

from inference.decode import Decoder, decode
from inference.probe import ImageLimits
from tasks.runtime import Runtime
from tasks.worker.runner import Runner
from tests.support.models import FakeModel


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
