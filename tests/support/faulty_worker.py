"""A model whose behaviour the picture commands, for `celery -A tests.support.faulty_app`.

The first pixel's red says what: 10 kill the process, 20 hang in native code the first time, 30
hang there always, 40 keep 250 MB of memory, 50 sleep 2 s, 60 sleep 10 s the first time, anything
else sleep 100 ms. The matte is the left half.

Files in the model folder command the process: `slow-start` (seconds), `blind` (fail the start
check), `hang` (the next call hangs as with 20), `stop-after-pop` (stop between taking a message and
noting that it is taken).
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from kombu.transport.virtual import Message

from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.models.selftest import check_model_output
from tasks.celery_transport import Channel, ServiceQoS
from tasks.jobs.routing import is_model_queue
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask

KILL, HANG_ONCE, HANG, GROW, SLOW, SLOW_ONCE, GATED = 10, 20, 30, 40, 50, 60, 70
#: A GATED picture is not done before this file of the cluster's folder is gone.
GATE = "gate"
WORK_SECONDS, SLOW_SECONDS, LONG_SECONDS = 0.1, 2.0, 10.0
GROWTH_BYTES = 250 * 2**20


class FaultyModel:
    name = "u2netp"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: list[bytearray] = []

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
        elif (
            command == HANG or (command == HANG_ONCE and self._first("hung")) or self._told("hang")
        ):
            # As in native code: no signal handler of Python's runs.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(3600)
        elif command == SLOW_ONCE and self._first("slow"):
            time.sleep(LONG_SECONDS)
        elif command == GATED and self._folder is not None:
            while (self._folder / GATE).exists():
                time.sleep(0.02)
        elif command == GROW:
            self._kept.append(bytearray(b"x") * GROWTH_BYTES)
        else:
            time.sleep(SLOW_SECONDS if command == SLOW else WORK_SECONDS)

    def _first(self, what: str) -> bool:
        with suppress(FileExistsError):
            (self._folder / what).touch(exist_ok=False)  # type: ignore[operator]
            return True
        return False

    def _told(self, what: str) -> bool:
        """Is there a file of that name? Once: it is gone then."""
        with suppress(FileNotFoundError):
            (self._folder / what).unlink()  # type: ignore[operator]
            return True
        return False


def left_half(image: Rgb) -> Alpha:
    alpha = np.zeros(image.shape[:2], np.float32)
    alpha[:, : image.shape[1] // 2] = 1
    return alpha


def load_faulty_model(settings: Settings) -> FaultyModel:
    model = FaultyModel(settings.model_dir)
    model.warm_up()
    if (settings.model_dir / "blind").exists():
        # The left half is not what the model of that name makes of the drawing.
        check_model_output(model)
    return model


class StoppingQoS(ServiceQoS):
    """Stops its process on request, at the moment at which a message is nowhere in Redis."""

    def append(self, message: Message, delivery_tag: str) -> None:
        marker = Settings.load().model_dir / "stop-after-pop"
        if is_model_queue(message.delivery_info["routing_key"]):
            with suppress(FileNotFoundError):
                marker.unlink()
                os.kill(os.getpid(), signal.SIGSTOP)
        super().append(message, delivery_tag)


Channel.QoS = StoppingQoS
RemovalTask.loader = staticmethod(load_faulty_model)
