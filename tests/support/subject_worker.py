"""A model whose subject is what is red, for `celery -A tests.support.subject_app`.

Each picture that it looks at is noted in a file. One whose first pixel is `SLOW` takes a while.
"""

import os
import time
from pathlib import Path

import numpy as np

from inference.models.base import Alpha, Rgb
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask
from tests.support.models import FakeModel

NOTES = "SUBJECT_NOTES"
SLOW = (0, 77, 255)
SLOW_SECONDS = 4


def _look_at(image: Rgb) -> Alpha:
    with Path(os.environ[NOTES]).open("a") as notes:
        notes.write(f"{image.shape[1]}x{image.shape[0]}\n")
    if tuple(image[0, 0]) == SLOW:
        time.sleep(SLOW_SECONDS)
    red = image[..., 0].astype(np.float32) - image[..., 2]
    alpha: Alpha = np.clip(red / 128, 0, 1)
    return alpha


def _load_subject_model(_settings: Settings) -> FakeModel:
    return FakeModel(find=_look_at)


RemovalTask.loader = staticmethod(_load_subject_model)
