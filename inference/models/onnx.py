"""U²-Net and IS-Net on ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from inference.errors import ModelError
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.models.registry import ModelSpec

# Pixels of a matte resized at a time: they stay in the processor's cache until they are clipped,
# which is twice as fast as the whole matte at once, and takes less memory.
_STRIP_PIXELS = 1 << 18

_LOG_ERRORS_ONLY = 3  # ONNX Runtime's severity "error"


class OnnxModel:
    """A session of U²-Net or IS-Net; safe to call from several threads.

    Its graph takes (1, 3, side, side) float32, and returns the matte as its first output.
    """

    def __init__(self, spec: ModelSpec, session: onnxruntime.InferenceSession) -> None:
        self.name = spec.name
        self._spec = spec
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

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
            (matte,) = self._session.run([self._output], {self._input: tensor})
        except Exception as error:  # ONNX Runtime's own errors share no public root
            raise ModelError(f"The model {self.name} failed to run: {error}") from error
        result: Alpha = np.asarray(matte, np.float32)[0, 0]
        return result


def load_onnx(
    spec: ModelSpec, path: Path, *, device: str, precision: str, threads: int | None
) -> OnnxModel:
    """Load the graph on a device; `load_model` describes the arguments.

    Raises:
        ModelError: the device or the precision is not available, or the file is no model.
    """
    if precision not in {"auto", "fp32"}:
        raise ModelError(
            f"The model {spec.name} runs in fp32 only, not in {precision!r}: use precision=auto."
        )
    providers = _choose_providers(device)
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=_session_options(threads), providers=providers
        )
    except Exception as error:  # ONNX Runtime's own errors share no public root
        raise ModelError(f"The file {path} cannot be loaded as a model: {error}") from error
    # ONNX Runtime continues without a provider that fails to start.
    if device.startswith("cuda") and "CUDAExecutionProvider" not in session.get_providers():
        raise ModelError(
            f"The device {device} was asked for, but CUDA did not start: check the driver with "
            "nvidia-smi, or use device=cpu."
        )
    return OnnxModel(spec, session)


def _session_options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads or 0  # 0: one per core
    options.inter_op_num_threads = 1
    # Every picture has the same size, and yet a plan of all tensors costs 190 MB and no less time:
    # it holds them in one block, beside what the first run has allocated one by one.
    options.enable_mem_pattern = False
    # Waiting threads sleep instead of keeping a core busy between two pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _choose_providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    kind, _, index = device.partition(":")
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cpu" or (kind == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    if kind not in {"auto", "cuda"}:
        raise ModelError(f"There is no device {device!r}: use auto, cpu, cuda or cuda:N.")
    if not has_cuda:
        raise ModelError(
            f"The device {device} was asked for, but this onnxruntime was built for the CPU: "
            "install onnxruntime-gpu, or use device=cpu."
        )
    return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"]


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
