"""The pipeline: decode, find the matte, estimate the foreground, lay out, compose, encode."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.alpha import (
    combine_alpha,
    feather,
    fill_translucent_parts,
    flatten,
    is_cut_out,
    move_edge,
    own_matte,
    settle_transparency,
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
from inference.decode import Decoder, Picture, decode, decode_background
from inference.encode import encode, resolve_format
from inference.layout import (
    Box,
    Layout,
    find_subject_box,
    limit_size,
    measure_coverage,
    plan_layout,
)
from inference.models.base import Alpha, MattingModel, Rgb, StageHook, no_stages
from inference.options import OPAQUE, Options, Output, OutputFormat, Shadow
from inference.probe import DEFAULT_LIMITS, ImageLimits
from inference.refine import NEGLIGIBLE_ALPHA, ForegroundEstimator, estimate_foreground


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
    #: Where the subject lies in the result; None if none was found.
    foreground: Box | None
    #: The share of the input's pixels whose alpha is more than one half, 0..1.
    coverage: float


def remove_background(
    data: bytes,
    options: Options,
    model: MattingModel,
    *,
    background: bytes | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    stages: StageHook = no_stages,
    decoder: Decoder = decode,
) -> Result:
    """Remove a picture's background.

    Args:
        data: the picture's file.
        options: what the result looks like.
        model: finds the subject; it marks the stages `preprocess` and `inference` itself.
        background: the file that goes behind the subject; required if the options name its digest,
            which is not checked here.
        limits: the accepted size of the picture; `max_pixels` limits the result too.
        stages: called for every stage; may end the job before each.
        decoder: decodes both files.

    Raises:
        InferenceError: the picture, its options or the model cannot be used.
    """
    with stages("decode"):
        picture = settle_transparency(decoder(data, limits))
        background_rgb = decode_background(background, options, limits, decoder)
        region = _check_before_inference(picture, options, limits)
    matte = _find_matte(picture, region, options, model, stages)
    with stages("compose"):
        rgb, alpha = _separate_subject(picture, matte, options, model)
        coverage = measure_coverage(alpha)
        del picture, matte  # the largest arrays: each is freed as soon as it is not needed
        layout, layer = _lay_out_subject(rgb, alpha, options, limits)
        del rgb, alpha
        pixels = _compose_result(layer, layout, options, background_rgb)
        del layer
    with stages("encode"):
        output_format = resolve_format(pixels, options.output_format)
        encoded = encode(pixels, options, output_format)
    return Result(
        data=encoded,
        format=output_format,
        width=layout.size[0],
        height=layout.size[1],
        full_width=layout.full_size[0],
        full_height=layout.full_size[1],
        foreground=layout.subject,
        coverage=coverage,
    )


def _check_before_inference(picture: Picture, options: Options, limits: ImageLimits) -> Box | None:
    """Return the region of interest in pixels; refuse impossible options before the model runs."""
    height, width = picture.rgb.shape[:2]
    if not options.crop:
        options.check_size(*limit_size(width, height, options, limits.max_pixels))
    return None if options.roi is None else Box(*options.roi.to_pixels(width, height))


def _has_own_matte(picture: Picture, options: Options) -> bool:
    """Return whether the matte is what the picture brings: it is cut out, or wanted as it is."""
    return options.output is Output.ORIGINAL or is_cut_out(picture)


def _find_matte(
    picture: Picture,
    region: Box | None,
    options: Options,
    model: MattingModel,
    stages: StageHook,
) -> Alpha:
    """Return the matte of the whole picture, or of a region with zeros around it.

    Where the picture's own alpha is its matte, no model runs.
    """
    height, width = picture.rgb.shape[:2]
    region = region or Box(0, 0, width, height)
    if _has_own_matte(picture, options):
        part = own_matte(picture)[region.slices]
    else:
        shown = np.ascontiguousarray(flatten(picture)[region.slices])
        (part,) = model.matte([shown], stages)
    if part.shape == (height, width):
        return part
    matte = np.zeros((height, width), np.float32)
    matte[region.slices] = part
    return matte


def _separate_subject(
    picture: Picture, matte: Alpha, options: Options, model: MattingModel
) -> tuple[Rgb, NDArray[np.uint8]]:
    """Return the subject's colors, without those of the old background, and its alpha.

    The colors are estimated by the model's matte: what the caller does to the edge says nothing
    about how the picture was mixed.
    """
    own = _has_own_matte(picture, options)
    alpha = combine_alpha(matte, None if own else picture.alpha)
    if not options.semitransparency:
        alpha = fill_translucent_parts(alpha)
    moved = move_edge(alpha, options)
    final = feather(moved, options.mask_feather) if options.mask_feather else moved
    if picture.alpha is not None and final is not alpha:
        final = np.where(picture.alpha > 0, final, np.uint8(0))  # there are no colors
    if own or not options.refine:  # its colors hold no old background, or are to
        return picture.rgb, final
    # Where the edge was moved to, the caller wants the picture; where it only fades, the subject.
    revealed = None if final is moved else (final > 0) & (moved <= NEGLIGIBLE_ALPHA * OPAQUE)
    if isinstance(model, ForegroundEstimator):  # on its own device
        return model.estimate_foreground(picture.rgb, matte, revealed), final
    return estimate_foreground(picture.rgb, matte, revealed), final


def _lay_out_subject(
    rgb: Rgb, alpha: NDArray[np.uint8], options: Options, limits: ImageLimits
) -> tuple[Layout, Layer]:
    """Crop, scale, move and shrink the picture in one step."""
    height, width = alpha.shape
    subject = find_subject_box(alpha)
    extent = (0, 0, 0, 0)
    if options.shadow is not Shadow.NONE and subject is not None:
        extent = shadow_extent(subject)
    layout = plan_layout(
        width, height, subject, options, max_pixels=limits.max_pixels, shadow_extent=extent
    )
    options.check_size(*layout.size)
    return layout, place_subject(rgb, alpha, layout)


def _compose_result(
    layer: Layer, layout: Layout, options: Options, background: Rgb | None
) -> Pixels:
    """Return the mask, or the subject with its shadow on the background."""
    if options.output is Output.MASK:
        return layer.alpha
    if options.shadow is not Shadow.NONE and layout.subject is not None:
        layer = cast_shadow(layer, layout.subject, options.shadow_opacity)
    if background is not None:
        return compose(layer, cover_background(background, *layout.size))
    color = options.matte_color
    if options.output_format is OutputFormat.ZIP and not (color and color[3]):
        # The zip's color.jpg keeps the colors of transparent pixels, which a cutout sets to zero.
        return np.dstack([layer.rgb, layer.alpha])
    return compose(layer, color)
