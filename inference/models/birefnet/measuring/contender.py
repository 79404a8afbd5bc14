"""One way to run a network, with what was measured of it."""

import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.models.base import Alpha, Rgb
from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.device import finish
from inference.models.birefnet.fast.runners import (
    ExecutionPath,
    Runner,
    deformable_note,
    make_runner,
)
from inference.models.birefnet.golden import golden_input, golden_network
from inference.models.birefnet.measuring import clock
from inference.models.birefnet.pixels import prepare, to_matte


@dataclass(frozen=True, slots=True)
class Setting:
    """What all that are compared have in common."""

    config: BiRefNetConfig
    device: torch.device
    dtype: torch.dtype
    #: Of a picture, pixels; a multiple of 32, off the reference path of 64.
    size: int
    #: Time whole pictures in and mattes out, too?
    loop: bool = False
    #: Folder for what a compiler makes.
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Rounds:
    """What was measured for one size of batch, round by round."""

    milliseconds: list[float] = field(default_factory=list)
    loop_milliseconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def median(self) -> float:
        """Of the network alone, milliseconds."""
        return statistics.median(self.milliseconds)

    def median_of_loop(self) -> float | None:
        """With pictures in and mattes out, milliseconds; None if it was not measured."""
        return statistics.median(self.loop_milliseconds) if self.loop_milliseconds else None


class Contender:
    """A network with stand-in weights, run on one path.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """

    def __init__(self, setting: Setting, path: ExecutionPath) -> None:
        self._setting = setting
        network = golden_network(setting.config)
        note = "" if path is ExecutionPath.REFERENCE else deformable_note(setting.device)
        began = time.perf_counter()
        where = setting.device, setting.dtype
        self.run: Runner = make_runner(
            path, network, *where, side=setting.size, cache=setting.cache, reason=note
        )
        self.run(self._pixels(1))
        finish(setting.device)
        #: From weights in memory to the first answer: what a worker's start waits for.
        self.start_seconds = time.perf_counter() - began

    def error(self, expected: Tensor) -> float:
        """The largest difference between its matte and that of these logits, 0..1."""
        answer = self.run(self._pixels(1)).float().sigmoid().cpu()
        return float((answer - expected.sigmoid()).abs().max())

    def warm_up(self, batch: int) -> None:
        """For batches of this size."""
        clock.warm_up(partial(self.run, self._pixels(batch)), self._setting.device)

    def measure(self, batch: int, rounds: Rounds) -> None:
        """One round more."""
        pixels, device = self._pixels(batch), self._setting.device
        clock.forget_peak(device)
        rounds.milliseconds.append(clock.milliseconds(partial(self.run, pixels), device))
        rounds.peaks.append(clock.peak_bytes(device))
        if self._setting.loop:
            pictures = [_picture(self._setting.size)] * batch
            rounds.loop_milliseconds.append(
                clock.milliseconds(partial(self._loop, pictures), device)
            )

    def _pixels(self, batch: int) -> Tensor:
        setting = self._setting
        picture = torch.from_numpy(golden_input(setting.size)).to(setting.device, setting.dtype)
        return picture.repeat(batch, 1, 1, 1)

    def _loop(self, pictures: list[Rgb]) -> list[Alpha]:
        """What the engine does with a batch."""
        size, device = self._setting.size, self._setting.device
        batch = torch.cat([prepare(picture, size, device) for picture in pictures])
        logits = self.run(batch.to(self._setting.dtype))
        return [
            to_matte(one, *picture.shape[:2])
            for one, picture in zip(torch.split(logits, 1), pictures, strict=True)
        ]


def _picture(side: int) -> Rgb:
    """Half as wide again as the network's own, so that it is resized."""
    return np.random.default_rng(0).integers(0, 256, (side, 3 * side // 2, 3), np.uint8)
