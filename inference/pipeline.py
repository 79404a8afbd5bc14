"""One picture's way, step by step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.alpha import (
    combine_alpha,
    fill_translucent_parts,
    find_subject_box,
    measure_coverage,
)
from inference.compose import (
    Layer,
    Pixels,
    cast_shadow,
    compose,
    cover_background,
    place_subject,
    shadow_extent,
)
from inference.decode import Picture, decode, decode_background
from inference.encode import encode, resolve_format
from inference.layout import Box, Layout, limit_size, plan_layout
from inference.models.base import Alpha, MattingModel, Rgb
from inference.options import Options, Output, OutputFormat, Shadow
from inference.probe import DEFAULT_LIMITS, ImageLimits
from inference.refine import ForegroundEstimator, estimate_foreground
from inference.stages import StageHook, no_stages
from inference.version import PIPELINE_VERSION

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
    model: MattingModel,
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
        region = _check_before_inference(picture, options, limits)
    matte = _find_matte(picture.rgb, region, model, stages)
    with stages("compose"):
        alpha = combine_alpha(matte, picture.alpha)
        share = measure_coverage(alpha)
        rgb = _estimate_foreground(picture.rgb, matte, model) if options.refine else picture.rgb
        del picture, matte  # the largest arrays: each goes when it is not needed any more
        layout, placed = _lay_out_subject(rgb, alpha, options, limits)
        del rgb, alpha
        pixels = _compose_result(placed, layout, options, behind)
        del placed
    with stages("encode"):
        wanted = resolve_format(pixels, options.output_format)
        encoded = encode(pixels, options, wanted)
    return Result(encoded, wanted, *layout.size, *layout.full_size, layout.subject, share)


def _check_before_inference(picture: Picture, options: Options, limits: ImageLimits) -> Box | None:
    """The region of interest; what cannot be done is found before the model runs."""
    height, width = picture.rgb.shape[:2]
    if not options.crop:
        options.check_size(*limit_size(width, height, options, limits.max_pixels))
    return None if options.roi is None else Box(*options.roi.pixels(width, height))


def _find_matte(rgb: Rgb, region: Box | None, model: MattingModel, stages: StageHook) -> Alpha:
    """The matte of the picture, or of a region with nothing around it."""
    if region is None:
        return model.matte([rgb], stages)[0]
    matte = np.zeros(rgb.shape[:2], np.float32)
    (matte[region.slices],) = model.matte([np.ascontiguousarray(rgb[region.slices])], stages)
    return matte


def _estimate_foreground(rgb: Rgb, matte: Alpha, model: MattingModel) -> Rgb:
    estimate = (
        model.estimate_foreground if isinstance(model, ForegroundEstimator) else estimate_foreground
    )
    return estimate(rgb, matte)


def _lay_out_subject(
    rgb: Rgb, alpha: NDArray[np.uint8], options: Options, limits: ImageLimits
) -> tuple[Layout, Layer]:
    """Crop, scale, move and shrink, in one go."""
    if not options.semitransparency:
        alpha = fill_translucent_parts(alpha)
    height, width = alpha.shape
    subject = find_subject_box(alpha)
    shadow = options.shadow is not Shadow.NONE and subject is not None
    layout = plan_layout(
        width,
        height,
        subject,
        options,
        max_pixels=limits.max_pixels,
        reach=shadow_extent(subject) if shadow and subject else (0, 0, 0, 0),
    )
    options.check_size(*layout.size)
    return layout, place_subject(rgb, alpha, layout)


def _compose_result(placed: Layer, layout: Layout, options: Options, behind: Rgb | None) -> Pixels:
    """The result's pixels: the mask, or the subject with its shadow on what lies behind."""
    if options.output is Output.MASK:
        return placed.alpha
    if options.shadow is not Shadow.NONE and layout.subject is not None:
        placed = cast_shadow(placed, layout.subject, options.shadow_opacity)
    fitted = None if behind is None else cover_background(behind, *layout.size)
    color = options.matte_color
    if options.output_format is OutputFormat.ZIP and fitted is None and not (color and color[3]):
        return np.dstack([placed.rgb, placed.alpha])
    return compose(placed, color if fitted is None else fitted)
