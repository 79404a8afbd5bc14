"""BiRefNet as a matting model: preprocess pictures, run the network, return mattes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference import refine, refine_torch
from inference.errors import ModelError
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.models.birefnet.checkpoint import load_network
from inference.models.birefnet.config import BiRefNetConfig, PatchOrder
from inference.models.birefnet.device import (
    choose_device,
    choose_dtype,
    synchronize,
    translate_gpu_errors,
)
from inference.models.birefnet.fast.runners import choose_execution_path, make_runner
from inference.models.birefnet.network import BiRefNet

# Mean and standard deviation of ImageNet's training pictures, per channel, on a 0..1 scale.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

#: Pixels that a filter reaches to each side, before it is widened by the scale.
_TAPS: Final = {"bilinear": 1, "bicubic": 2}
#: At this reach on both axes, 32 threads abreast need 33 KiB of the 48 KiB that every card has
#: (upsample_gen2d_aa in torch's UpSampleBilinear2d.cu).
_MOST_TAPS: Final = 64


def preprocess(image: Rgb, side: int, device: torch.device) -> Tensor:
    """Resize a picture to a square and normalize it, as in the network's training.

    The antialiased bilinear resize is within one level of PIL's; without antialiasing it would be
    up to 16 levels off. The aspect is not kept.

    Returns:
        (1, 3, side, side) float32 on `device`.
    """
    pixels = torch.tensor(image)  # a copy: the array may be read-only
    if device.type != "cpu":  # through pinned memory, which a GPU reads by itself
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    levels = resize_levels(pixels.permute(2, 0, 1)[None].float(), side).to(device)
    mean = torch.tensor(_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=device).view(1, 3, 1, 1)
    return (levels / 255 - mean) / std


def cuda_can_resize(
    shape: Sequence[int], height: int, width: int, mode: Literal["bilinear", "bicubic"]
) -> bool:
    """Return whether torch's CUDA kernel can resize (..., rows, columns) to height x width.

    With antialiasing it keeps the weights of a block of pixels in shared memory, and refuses to
    shrink by so much that they do not fit: 1024 pixels to 21, by a bicubic filter.
    """
    taps = _TAPS[mode] * max(shape[-2] / height, shape[-1] / width)
    return taps <= _MOST_TAPS


def resize_levels(levels: Tensor, side: int) -> Tensor:
    """Resize (1, 3, height, width) float to (1, 3, side, side)."""
    if not cuda_can_resize(levels.shape, side, side, "bilinear"):
        levels = levels.cpu()
    return F.interpolate(levels, size=(side, side), mode="bilinear", antialias=True)


def logits_to_matte(logits: Tensor, height: int, width: int) -> Alpha:
    """Turn logits into the matte of one picture, at that picture's size.

    Bicubic with antialiasing on floats, clamped because it may overshoot at hard edges. The matte
    is not stretched to the full range: that would invent a subject where there is none.

    Maps (1, 1, side, side), of any precision, to (height, width), 0..1.
    """
    matte = resize_matte(logits.float().sigmoid(), height, width)[0, 0]
    if matte.device.type == "cpu":
        return np.ascontiguousarray(matte.numpy())
    pinned = torch.empty(matte.shape, dtype=matte.dtype, pin_memory=True)
    pinned.copy_(matte, non_blocking=True)
    torch.cuda.current_stream(matte.device).synchronize()
    return pinned.numpy().copy()  # pinned memory is scarce, and the matte may be kept for long


def resize_matte(matte: Tensor, height: int, width: int) -> Tensor:
    """Resize (1, 1, side, side) to (1, 1, height, width), within 0..1.

    What is too small for a GPU's kernel is resized on the CPU, and stays there.
    """
    if not cuda_can_resize(matte.shape, height, width, "bicubic"):
        matte = matte.cpu()
    resized = F.interpolate(matte, size=(height, width), mode="bicubic", antialias=True)
    return resized.clamp_(0, 1)


class BiRefNetModel:
    """A BiRefNet network on its device, as a `MattingModel`.

    Args:
        name: the registry's name of the model.
        network: in eval mode; it is moved to the device and the precision.
        device: where it runs, from `choose_device`.
        dtype: of its weights and activations, from `choose_dtype`.
        compile_: `auto` for the fastest execution path of the device, `off` for the reference path.
        cache: folder in which compiled code is kept for the next start; None keeps nothing.

    Raises:
        GpuOutOfMemoryError: the network does not fit.
        GpuFaultError: the process cannot use the GPU any more.
    """

    def __init__(
        self,
        name: str,
        network: BiRefNet,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compile_: str = "auto",
        cache: Path | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self._side = network.config.input_size
        self._batch_limit: int | None = None  # set when the memory has been full
        # A stream of its own on a GPU: on the default one, all work waits for all other.
        self._stream = None if device.type == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        path, reason = choose_execution_path(compile_, device, self._side)
        with self._on_device():
            runner = make_runner(
                path, network, device, dtype, side=self._side, cache=cache, reason=reason
            )
        self._run = runner.run
        #: The execution path: `reference`, `fast` or `graphed`.
        self.path = runner.path.value
        #: Why no faster path is used; empty if there is none.
        self.path_reason = runner.reason

    def gpu_memory(self) -> tuple[int, int] | None:
        """Return the bytes of its GPU that are in use, by anyone, and all; None on the CPU.

        Raises:
            GpuFaultError: the process cannot use the GPU any more.
        """
        if self.device.type == "cpu":
            return None
        with translate_gpu_errors(self.device):
            free, total = torch.cuda.mem_get_info(self.device)
        return total - free, total

    def warm_up(self) -> None:
        """Run once on a gray picture."""
        self.matte([np.full((self._side, self._side, 3), 128, np.uint8)])

    @torch.inference_mode()
    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        """Return the matte of each picture, at that picture's own size.

        All pictures are one batch, or several if the memory has been found too small for that.

        Raises:
            GpuOutOfMemoryError: not even one picture fits.
            GpuFaultError: the process cannot use the GPU any more.
            ModelError: the logits are not finite in this precision.
        """
        if not images:
            return []
        with self._on_device():
            with stages("preprocess"):
                batch = torch.cat([preprocess(image, self._side, self.device) for image in images])
                synchronize(self.device)
            with stages("inference"):
                logits = self._logits(batch.to(self.dtype))
                mattes = [
                    logits_to_matte(one, image.shape[0], image.shape[1])
                    for one, image in zip(torch.split(logits, 1), images, strict=True)
                ]
                if not torch.isfinite(logits).all():
                    raise ModelError(
                        f"The model {self.name} overflowed in {self.dtype}: use precision=bf16 or "
                        "fp32."
                    )
                return mattes

    def _logits(self, pixels: Tensor) -> Tensor:
        """Run the network in as few batches as fit; the size that fits is remembered."""
        logits: list[Tensor] = []
        done = 0
        while done < len(pixels):
            part = pixels[done : done + (self._batch_limit or len(pixels))]
            try:
                logits.append(self._run(part))
                done += len(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self._batch_limit = len(part) // 2
            else:
                continue
            # Outside of the handler, whose traceback holds the batch's tensors.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Run on the model's own stream, and translate torch's errors."""
        with translate_gpu_errors(self.device), torch.cuda.stream(self._stream):
            yield

    def estimate_foreground(
        self, rgb: Rgb, alpha: Alpha, revealed: NDArray[np.bool_] | None = None
    ) -> Rgb:
        """Estimate the foreground on the GPU if the network is on one, else on the CPU.

        Raises:
            GpuOutOfMemoryError: the picture in floats, twenty times, does not fit.
            GpuFaultError: the process cannot use the GPU any more.
        """
        if self.device.type == "cpu":
            return refine.estimate_foreground(rgb, alpha, revealed)
        with self._on_device():
            pixels = torch.tensor(rgb, device=self.device)
            matte = torch.tensor(alpha, device=self.device)
            seen = None if revealed is None else torch.tensor(revealed, device=self.device)
            return refine_torch.estimate_foreground(pixels, matte, seen).cpu().numpy()


def load_birefnet(
    name: str,
    path: Path,
    config: BiRefNetConfig,
    *,
    patch_order: PatchOrder | None = None,
    sha256: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    compile_: str = "auto",
    cache: Path | None = None,
) -> BiRefNetModel:
    """Load a checkpoint onto a device, as the model that the registry calls `name`.

    The other parameters are those of `load_network`, `choose_device`, `choose_dtype` and
    `BiRefNetModel`; `threads` limits the CPU threads of this process, None leaves them to torch.

    Raises:
        ModelError: the device, the precision or the checkpoint cannot be used.
    """
    # The cheap checks come first: a misspelt device is reported before a gigabyte is read.
    chosen = choose_device(device)
    dtype = choose_dtype(precision, chosen)
    if threads is not None:
        torch.set_num_threads(threads)
    network = load_network(path, config, patch_order=patch_order, sha256=sha256)
    return BiRefNetModel(name, network, chosen, dtype, compile_=compile_, cache=cache)
