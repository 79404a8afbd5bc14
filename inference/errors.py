"""The errors of pixel work and of models, under one root, each with a stable `code`."""

from typing import ClassVar


class InferenceError(Exception):
    """Root of everything that `inference` raises on purpose; its text is safe to show a caller."""

    code: ClassVar[str] = "inference_failed"
    #: Would the same job succeed if it ran again?
    retryable: ClassVar[bool] = False


class InvalidImageError(InferenceError):
    """The bytes are no image that can be read: empty, truncated, corrupt."""

    code = "invalid_image"


class UnsupportedFormatError(InferenceError):
    """An image, but of a format that is not accepted here."""

    code = "unsupported_format"


class ImageTooLargeError(InferenceError):
    """More pixels than allowed, judged from the header before anything is decoded."""

    code = "too_many_pixels"


class ImageTooSmallError(InferenceError):
    """Too few pixels to hold a subject."""

    code = "image_too_small"


class InvalidOptionError(InferenceError):
    """An option is out of its range; `field` names it."""

    code = "invalid_parameter"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class RoiExceedsBoundsError(InvalidOptionError):
    """The region of interest reaches beyond the picture."""

    code = "roi_exceeds_bounds"


class RoiRegionEmptyError(InvalidOptionError):
    """The region of interest holds no pixel."""

    code = "roi_region_empty"


class ModelError(InferenceError):
    """A model cannot be loaded or used."""

    code = "model_unavailable"


class CheckpointError(ModelError):
    """The file of weights cannot be used."""


class CheckpointNotFoundError(CheckpointError):
    """There is no such file, or the folder holds no `model.safetensors`."""


class CheckpointFormatError(CheckpointError):
    """The file is not safetensors; most often a pickle, which could run code when read."""


class CheckpointTruncatedError(CheckpointError):
    """The file ends early: a download or a copy broke off."""


class CheckpointKeysError(CheckpointError):
    """Tensors are missing, or there are some that the network does not have."""


class CheckpointShapeError(CheckpointError):
    """A tensor has another shape than the network's."""


class CheckpointHashError(CheckpointError):
    """The file is not the one that was expected."""


class PatchOrderUnknownError(CheckpointError):
    """Nothing says in which order the checkpoint wants its image patches."""


class DeviceUnavailableError(ModelError):
    """The device that was asked for is not there."""


class PrecisionError(ModelError):
    """The precision is unknown, or too narrow for this checkpoint."""


class GpuOutOfMemoryError(ModelError):
    """The GPU's memory is full; the process can go on."""

    code = "gpu_out_of_memory"
    retryable = True


class GpuFaultError(ModelError):
    """CUDA failed in a way that lasts as long as the process."""

    code = "gpu_fault"
    retryable = True
