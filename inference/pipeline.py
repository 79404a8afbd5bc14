"""One picture's way, step by step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.background import cover, decode_background
from inference.compose import Layer, Pixels, compose
from inference.decode import Picture, decode
from inference.encode import encode, resolve
from inference.geometry import Box, Layout, coverage, foreground_box, limited_size, plan
from inference.models.base import Alpha, Matting, Rgb
from inference.opacity import combine, fill
from inference.option_values import Output, OutputFormat, Shadow
from inference.options import Options
from inference.pipeline_version import PIPELINE_VERSION
from inference.placement import place
from inference.probe import DEFAULT_LIMITS, ImageLimits
from inference.refine import Refining, estimate_foreground
from inference.shadow import cast_shadow, reach
from inference.stages import StageHook, no_stages

__all__ = ["PIPELINE_VERSION", "Result", "remove_background"]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished file and the facts about it."""

    data: bytes
    #: Never `auto`.
    format: OutputFormat
    width: int
    height: int
    #: The size without `max_side` and `max_pixels`.
    full_width: int
    full_height: int
    #: Where the subject lies in the result; None where none was found.
    foreground: Box | None
    #: The share of the input's pixels whose alpha is over one half, 0..1.
    coverage: float


def remove_background(
    data: bytes,
    options: Options,
    model: Matting,
    *,
    background: bytes | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    stages: StageHook = no_stages,
) -> Result:
    """Cut the subject out of a picture.

    Args:
        data: the picture's file.
        options: how the result is to look.
        model: finds the subject; it marks the stages `preprocess` and `inference` itself.
        background: the file that goes behind the subject; there must be one if the options name
            its digest, which is not checked.
        limits: what is accepted, in pixels; a result has no more either.
        stages: told of every stage in `STAGES`, in that order; may end the job before each.

    Raises:
        InferenceError: the picture, the options for it or the model will not do.
    """
    with stages("decode"):
        picture = decode(data, limits)
        behind = decode_background(background, options, limits)
        region = _check(picture, options, limits)
    matte = _find_matte(picture.rgb, region, model, stages)
    with stages("compose"):
        alpha = combine(matte, picture.alpha)
        share = coverage(alpha)
        rgb = _refine(picture.rgb, matte, model) if options.refine else picture.rgb
        del picture, matte  # the largest arrays: each goes when it is not needed any more
        layout, placed = _lay_out(rgb, alpha, options, limits)
        del rgb, alpha
        pixels = _finish(placed, layout, options, behind)
        del placed
    with stages("encode"):
        wanted = resolve(pixels, options.output_format)
        encoded = encode(pixels, options, wanted)
    return Result(encoded, wanted, *layout.size, *layout.full_size, layout.subject, share)


def _check(picture: Picture, options: Options, limits: ImageLimits) -> Box | None:
    """The region of interest; what cannot be done is found before the model runs."""
    height, width = picture.rgb.shape[:2]
    if not options.crop:
        options.check_size(*limited_size(width, height, options, limits.max_pixels))
    return None if options.roi is None else Box(*options.roi.pixels(width, height))


def _find_matte(rgb: Rgb, region: Box | None, model: Matting, stages: StageHook) -> Alpha:
    """The matte of the picture, or of a region with nothing around it."""
    if region is None:
        return model.matte([rgb], stages)[0]
    matte = np.zeros(rgb.shape[:2], np.float32)
    (matte[region.slices],) = model.matte([np.ascontiguousarray(rgb[region.slices])], stages)
    return matte


def _refine(rgb: Rgb, matte: Alpha, model: Matting) -> Rgb:
    estimate = model.estimate_foreground if isinstance(model, Refining) else estimate_foreground
    return estimate(rgb, matte)


def _lay_out(
    rgb: Rgb, alpha: NDArray[np.uint8], options: Options, limits: ImageLimits
) -> tuple[Layout, Layer]:
    """Crop, scale, move and shrink, in one go."""
    if not options.semitransparency:
        alpha = fill(alpha)
    height, width = alpha.shape
    subject = foreground_box(alpha)
    shadow = options.shadow is not Shadow.NONE and subject is not None
    layout = plan(
        width,
        height,
        subject,
        options,
        max_pixels=limits.max_pixels,
        reach=reach(subject) if shadow and subject else (0, 0, 0, 0),
    )
    options.check_size(*layout.size)
    return layout, place(rgb, alpha, layout)


def _finish(placed: Layer, layout: Layout, options: Options, behind: Rgb | None) -> Pixels:
    """The result's pixels: the mask, or the subject with its shadow on what lies behind."""
    if options.output is Output.MASK:
        return placed.alpha
    if options.shadow is not Shadow.NONE and layout.subject is not None:
        placed = cast_shadow(placed, layout.subject, options.shadow_opacity)
    fitted = None if behind is None else cover(behind, *layout.size)
    color = options.matte_color
    if options.output_format is OutputFormat.ZIP and fitted is None and not (color and color[3]):
        return np.dstack([placed.rgb, placed.alpha])
    return compose(placed, color if fitted is None else fitted)
