"""The real model, which runs once for each input: for `celery -A tests.support.remembering_app`.

Tests send the same few photos hundreds of times, and an idle worker checks its model every two
seconds. The network is most of what that costs, and always says the same.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.models.base import Alpha, MattingModel
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask
from tasks.worker.startup import load_served_model
from tests.support.paths import REMEMBERED


def remembering(run: Callable[..., Alpha], folder: Path) -> Callable[..., Alpha]:
    """A network's run that is made once for each input."""

    def run_once(model: MattingModel, tensor: NDArray[np.float32]) -> Alpha:
        seen = folder / f"{hashlib.sha256(tensor).hexdigest()}.npy"
        if not seen.exists():
            # Renamed when it is whole: its writer may be killed.
            new = seen.with_suffix(f".{os.getpid()}.npy")
            np.save(new, run(model, tensor))
            new.rename(seen)
        matte: Alpha = np.load(seen)
        return matte

    return run_once


def load_remembering_model(settings: Settings) -> MattingModel:
    # As in the service, the parent loads no model library.
    from inference.models.onnx import OnnxModel  # noqa: PLC0415 - see above

    folder = Path(os.environ[REMEMBERED])
    OnnxModel._run = remembering(OnnxModel._run, folder)  # type: ignore[method-assign]
    return load_served_model(settings)


RemovalTask.loader = staticmethod(load_remembering_model)
