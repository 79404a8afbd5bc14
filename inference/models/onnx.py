"""U²-Net and IS-Net, whose graphs are ONNX files: from a picture to its matte."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.errors import ModelError
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.models.registry import ModelSpec

# Pixels of a matte resized at a time: they stay in the processor's cache until they are clipped,
# which is twice as fast as the whole matte at once, and takes less memory.
_STRIP_PIXELS = 1 << 18

# Where ONNX Runtime's package has what runs graphs on CUDA, in the builds that can.
_CUDA_PROVIDER = "capi/libonnxruntime_providers_cuda.so"


class Graph(Protocol):
    """A graph that a runtime has loaded; safe to call from several threads."""

    def __call__(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the graph's first output for one input; both (1, channels, side, side).

        Raises any exception of the runtime if the graph cannot be run.
        """
        ...


class OnnxModel:
    """U²-Net or IS-Net; safe to call from several threads.

    Its graph takes (1, 3, side, side) float32, and returns the matte as its first output.
    """

    def __init__(self, spec: ModelSpec, graph: Graph) -> None:
        self.name = spec.name
        self._spec = spec
        self._graph = graph

    def warm_up(self) -> None:
        """Run once on a black picture."""
        self.matte([np.zeros((self._spec.input_size, self._spec.input_size, 3), np.uint8)])

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        """Return the matte of each picture, at that picture's own size.

        Raises:
            ModelError: the graph cannot be run.
        """
        with stages("preprocess"):
            tensors = [preprocess(image, self._spec) for image in images]
        with stages("inference"):
            mattes = [self._run(tensor) for tensor in tensors]
            return [
                resize_matte(matte, image.shape[1], image.shape[0])
                for matte, image in zip(mattes, images, strict=True)
            ]

    def _run(self, tensor: NDArray[np.float32]) -> Alpha:
        try:
            matte: Alpha = self._graph(tensor)[0, 0]
        except Exception as error:  # the runtimes' own errors share no public root
            raise ModelError(f"The model {self.name} failed to run: {error}") from error
        return matte


def load_onnx(
    spec: ModelSpec, path: Path, *, device: str, precision: str, threads: int | None
) -> OnnxModel:
    """Load the graph on a device; `load_model` describes the arguments.

    Raises:
        ModelError: the device or the precision is not available, or the file is no model.
    """
    load = choose_runtime(spec, path, device=device, precision=precision, threads=threads)
    return OnnxModel(spec, load())


def choose_runtime(
    spec: ModelSpec, path: Path, *, device: str, precision: str, threads: int | None
) -> Callable[[], Graph]:
    """Return what loads the graph: on CPUs by MNN, on GPUs by ONNX Runtime (docs/adr/0028).

    The file is not read before the result is called, which raises `ModelError` if it is no model.

    Raises:
        ModelError: the device or the precision is not available.
    """
    if precision not in {"auto", "fp32"}:
        raise ModelError(
            f"The model {spec.name} runs in fp32 only, not in {precision!r}: use precision=auto."
        )
    kind, _, index = device.partition(":")
    if kind not in {"auto", "cpu", "cuda"}:
        raise ModelError(f"There is no device {device!r}: use auto, cpu, cuda or cuda:N.")
    # Each runtime is imported only when it is needed: an installation has the library of one.
    if kind == "cuda" or (kind == "auto" and has_cuda()):
        if not has_cuda():
            raise ModelError(
                f"The device {device} was asked for, but no ONNX Runtime with CUDA is installed: "
                "pip install onnxruntime-gpu, or use device=cpu."
            )
        from inference.models.onnx_runtime import load_graph as load_on_gpu  # noqa: PLC0415

        return partial(load_on_gpu, path, index=index or "0", threads=threads)
    from inference.models.mnn import load_graph as load_on_cpu  # noqa: PLC0415 - see above

    return partial(load_on_cpu, path, side=spec.input_size, threads=threads)


def has_cuda() -> bool:
    """Return whether an ONNX Runtime that was built for CUDA is installed; it is not imported."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        return False
    return (Path(found.origin).parent / _CUDA_PROVIDER).exists()


def preprocess(image: Rgb, spec: ModelSpec) -> NDArray[np.float32]:
    """Resize and normalize a picture to (1, 3, side, side), as the models' authors do.

    Their loader (`RescaleT`, then `ToTensorLab`, in the U-2-Net repository's data_loader.py) uses
    scikit-image's `resize`: linear interpolation, with anti-aliasing when shrinking, and without
    keeping the aspect. PIL's bilinear filter widens with the scale, which is equivalent. The
    division by the brightest value comes after the resize.
    """
    side = spec.input_size
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, np.float32)
    brightest = max(float(pixels.max()), 1.0)  # a black picture stays black
    pixels = (pixels / brightest - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[np.newaxis]


def resize_matte(matte: Alpha, width: int, height: int) -> Alpha:
    """Resize a matte to the picture's size, within 0..1.

    Bicubic on floats, clipped because it may overshoot at hard edges. The matte is not stretched
    to the full range, as the models' authors do: that would invent a subject where there is none.

    Returns:
        (height, width).
    """
    source = Image.fromarray(matte)
    scale = source.height / height
    rows = max(1, _STRIP_PIXELS // width)
    result = np.empty((height, width), np.float32)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        # Pillow also reads pixels beyond the box, so that the strips join without a seam.
        box = (0, top * scale, source.width, min(bottom * scale, source.height))
        strip = source.resize((width, bottom - top), Image.Resampling.BICUBIC, box=box)
        np.clip(np.asarray(strip), 0.0, 1.0, out=result[top:bottom])
    return result
