"""The real model, which runs once for each input: for `celery -A tests.support.remembering_worker`.

Tests send the same few photos hundreds of times, and an idle worker checks its model every two
seconds. The network is most of what that costs, and always says the same; it is loaded for an input
that is not known yet. A test that strikes while a job runs holds the model meanwhile.
"""

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.models.base import MattingModel
from inference.models.load import load_model
from inference.models.registry import ModelSpec
from inference.models.weights import check_weights, find_weights_file
from tasks.app import create_celery
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask
from tasks.worker.startup import load_served_model
from tests.support.paths import HELD, REMEMBERED


class RememberingGraph:
    """A graph that is run once for each input, and not while it is held."""

    def __init__(
        self, load: Callable[[], Callable[..., NDArray[np.float32]]], folder: Path
    ) -> None:
        self._load = load
        self._graph: Callable[..., NDArray[np.float32]] | None = None
        self._folder = folder

    def __call__(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        while (self._folder / HELD).exists():
            time.sleep(0.02)
        seen = self._folder / f"{hashlib.sha256(tensor).hexdigest()}.npy"
        if not seen.exists():
            self._graph = self._graph or self._load()
            # Renamed when it is whole: its writer may be killed.
            new = seen.with_suffix(f".{os.getpid()}.npy")
            np.save(new, self._graph(tensor))
            new.rename(seen)
        output: NDArray[np.float32] = np.load(seen)
        return output


def load_remembering(
    spec: ModelSpec,
    path: Path,
    *,
    device: str,
    precision: str,
    threads: int | None,
    **options: object,
) -> MattingModel:
    # As in the service, the parent loads no model library.
    from inference.models.onnx import OnnxModel, choose_runtime  # noqa: PLC0415 - see above

    if spec.engine != "onnx":
        chosen = {"device": device, "precision": precision, "threads": threads, **options}
        return load_model(spec, path, **chosen)  # type: ignore[arg-type]
    check_weights(spec, path)
    file = find_weights_file(spec, path)
    load = choose_runtime(spec, file, device=device, precision=precision, threads=threads)
    return OnnxModel(spec, RememberingGraph(load, Path(os.environ[REMEMBERED])))


RemovalTask.loader = staticmethod(partial(load_served_model, load=load_remembering))

app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, __name__]
