"""A model whose subject is what is red, for `celery -A tests.support.subject_app`.

Each picture that it looks at is noted in a file. One whose first pixel is `SLOW` takes a while.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.models.base import Alpha, Rgb, StageHook, no_stages
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask

NOTES = "SUBJECT_NOTES"
RED, BLUE, SLOW = (200, 30, 40), (20, 60, 220), (0, 77, 255)
SLOW_SECONDS = 4


class SubjectModel:
    name = "u2netp"

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def warm_up(self) -> None: ...

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"):
            pass
        with stages("inference"):
            return [self._look_at(image) for image in images]

    def _look_at(self, image: Rgb) -> Alpha:
        with self._notes.open("a") as notes:
            notes.write(f"{image.shape[1]}x{image.shape[0]}\n")
        if tuple(image[0, 0]) == SLOW:
            time.sleep(SLOW_SECONDS)
        red = image[..., 0].astype(np.float32) - image[..., 2]
        alpha: Alpha = np.clip(red / 128, 0, 1)
        return alpha


def load_subject_model(_settings: Settings) -> SubjectModel:
    return SubjectModel(Path(os.environ[NOTES]))


RemovalTask.loader = staticmethod(load_subject_model)
