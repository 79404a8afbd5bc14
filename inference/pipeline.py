"""One picture's way, step by step."""

from dataclasses import dataclass, replace

from inference.compose import compose
from inference.decode import decode
from inference.encode import encode
from inference.models.base import Matting
from inference.options import Options, OutputFormat
from inference.pipeline_version import PIPELINE_VERSION
from inference.probe import DEFAULT_LIMITS, ImageLimits
from inference.refine import Refining, estimate_foreground
from inference.stages import StageHook, no_stages

__all__ = ["PIPELINE_VERSION", "Result", "remove_background"]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished file and the facts about it."""

    data: bytes
    format: OutputFormat
    width: int
    height: int


def remove_background(
    data: bytes,
    options: Options,
    model: Matting,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    stages: StageHook = no_stages,
) -> Result:
    """Cut the subject out of a picture.

    Args:
        data: the picture's file.
        options: how the result is to look.
        model: finds the subject; it marks the stages `preprocess` and `inference` itself.
        limits: what is accepted, in pixels.
        stages: told of every stage in `STAGES`, in that order; may end the job before each.

    Raises:
        InferenceError: the picture, the options for it or the model will not do.
    """
    with stages("decode"):
        picture = decode(data, limits)
        height, width = picture.rgb.shape[:2]
        options.check_size(width, height)
    (matte,) = model.matte([picture.rgb], stages)
    with stages("compose"):
        if options.refine:
            refine = (
                model.estimate_foreground if isinstance(model, Refining) else estimate_foreground
            )
            picture = replace(picture, rgb=refine(picture.rgb, matte))
        pixels = compose(picture, matte, options.matte_color)
        del picture, matte  # the largest arrays: not needed while the file is made
    with stages("encode"):
        encoded = encode(pixels, options)
    return Result(data=encoded, format=options.output_format, width=width, height=height)
