"""The errors of pixel work and of models, under one root, each with a stable `code`."""

from typing import ClassVar, Self


class InferenceError(Exception):
    """Root of everything that `inference` raises on purpose; its text is safe to show a caller."""

    code: ClassVar[str] = "inference_failed"
    #: Whether the job may succeed when it runs again.
    retryable: ClassVar[bool] = False


class InvalidImageError(InferenceError):
    """The file is not a readable picture: empty, truncated or corrupt."""

    code = "invalid_image"

    @classmethod
    def of_early_end(cls) -> Self:
        """Return the error of a file that ends before its picture does."""
        return cls(
            "The file ends before the picture does: it was probably not sent or saved "
            "completely. Send it again."
        )


class UnsupportedFormatError(InferenceError):
    """The file is a picture or document in a format that is not accepted."""

    code = "unsupported_format"


class ImageTooLargeError(InferenceError):
    """The picture's header announces more pixels than allowed."""

    code = "too_many_pixels"


class ImageTooSmallError(InferenceError):
    """The picture has too few pixels to hold a subject."""

    code = "image_too_small"


class SideTooLongError(InferenceError):
    """A side of the picture is longer than allowed."""

    code = "side_too_long"


class ImageTooComplexError(InferenceError):
    """Decoding the picture takes more time, memory or steps than its size allows for."""

    code = "image_too_complex"

    @classmethod
    def of_parts(cls, parts: str, limit: int) -> Self:
        """Return the error of a file that has more parts than any honest writer makes."""
        return cls(
            f"The image has more than {limit} {parts}, and would take too long to decode. "
            "Save it again in an image editor."
        )


class InvalidOptionError(InferenceError):
    """An option is out of its range, or does not fit the others; `field` names it."""

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
    """A model cannot be fetched, loaded or run."""

    code = "model_unavailable"


class CheckpointError(ModelError):
    """A file of weights cannot be used: it is missing, truncated, of another kind or network."""


class GpuOutOfMemoryError(ModelError):
    """The GPU's memory is full; the process can continue."""

    code = "gpu_out_of_memory"
    retryable = True


class GpuFaultError(ModelError):
    """CUDA failed; the process cannot use the GPU any more."""

    code = "gpu_fault"
    retryable = True
