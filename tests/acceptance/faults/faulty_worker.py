"""A model whose behaviour the picture commands, for `celery -A faulty_app`.

The first pixel's red says what: 10 kill the process, 20 hang in native code the first time, 30
hang there always, anything else sleep 100 ms. The matte is the left half.
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from inference.models.base import Alpha, Rgb, StageHook, no_stages
from tasks.settings import Settings
from tasks.worker.removal import RemovalTask

KILL, HANG_ONCE, HANG, GPU_FAULT = 10, 20, 30, 40
WORK_SECONDS = 0.1


class FaultyModel:
    name = "u2netp"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def warm_up(self) -> None:
        slow = self._folder / "slow-start" if self._folder else None
        if slow is not None and slow.exists():
            time.sleep(float(slow.read_text()))

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"):
            pass
        with stages("inference"):
            if self._folder is not None:
                for image in images:
                    self._obey(int(image[0, 0, 0]))
            return [left_half(image) for image in images]

    def _obey(self, command: int) -> None:
        if command == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == HANG or (command == HANG_ONCE and self._first("hung")):
            # As in native code: no signal handler of Python's runs.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(3600)
        elif command < 50:
            pass
        else:
            time.sleep(WORK_SECONDS)

    def _first(self, what: str) -> bool:
        with suppress(FileExistsError):
            (self._folder / what).touch(exist_ok=False)  # type: ignore[operator]
            return True
        return False


def left_half(image: Rgb) -> Alpha:
    alpha = np.zeros(image.shape[:2], np.float32)
    alpha[:, : image.shape[1] // 2] = 1
    return alpha


def load_faulty_model(settings: Settings) -> FaultyModel:
    model = FaultyModel(settings.model_dir)
    model.warm_up()
    return model


RemovalTask.loader = staticmethod(load_faulty_model)
