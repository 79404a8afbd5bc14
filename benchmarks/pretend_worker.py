"""A worker whose model only sleeps: `celery -A benchmarks.pretend_worker worker`.

It is the service's own worker in everything else. How long the model sleeps is read before each
picture from the file `sleep-ms` of the worker's model folder, so that it can be changed while the
worker runs.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from inference.models.base import Alpha, Rgb, StageHook, no_stages
from tasks.app import create_celery
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask

#: Name of the file with the milliseconds.
SLEEP_FILE: Final = "sleep-ms"


class SleepingModel:
    """Finds the subject in the left half of each picture, after a pause."""

    name = "u2netp"

    def __init__(self, folder: Path) -> None:
        self._file = folder / SLEEP_FILE

    def warm_up(self) -> None:
        """Do nothing."""

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        """Return the mattes; the pause is for each picture."""
        with stages("preprocess"):
            pass
        with stages("inference"):
            time.sleep(float(self._file.read_text("ascii")) / 1000 * len(images))
            return [_left_half(image) for image in images]


def _left_half(image: Rgb) -> Alpha:
    alpha = np.zeros(image.shape[:2], np.float32)
    alpha[:, : image.shape[1] // 2] = 1
    return alpha


def load(settings: Settings) -> SleepingModel:
    """Return the model of a worker, in place of the served one."""
    return SleepingModel(settings.model_dir)


app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, __name__]
RemovalTask.loader = staticmethod(load)
