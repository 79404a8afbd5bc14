"""A picture of the caller's own, behind the subject."""

import numpy as np
from PIL import Image, ImageOps

from inference.decode import Picture, decode
from inference.errors import InferenceError, InvalidOptionError
from inference.models.base import Rgb
from inference.options import Options
from inference.probe import ImageLimits

# What shows through a background that is itself transparent.
_PAPER = (255, 255, 255)


def decode_background(data: bytes | None, options: Options, limits: ImageLimits) -> Rgb | None:
    """The background that the options tell of; (height, width, 3), opaque.

    Raises:
        InvalidOptionError: it cannot be read, or there is one where none was asked for, or none
            where one was.
    """
    if (data is None) is not (options.background_sha256 is None):
        raise InvalidOptionError(
            "background_image", "The background image and its SHA-256 must come together."
        )
    if data is None:
        return None
    try:
        picture = decode(data, limits)
    except InferenceError as error:
        raise InvalidOptionError(
            "background_image", f"The background image cannot be used. {error}"
        ) from error
    return _flatten(picture)


def _flatten(picture: Picture) -> Rgb:
    if picture.alpha is None:
        return picture.rgb
    paper = Image.new("RGB", (picture.rgb.shape[1], picture.rgb.shape[0]), _PAPER)
    paper.paste(Image.fromarray(picture.rgb), mask=Image.fromarray(picture.alpha))
    return np.asarray(paper)


def cover(background: Rgb, width: int, height: int) -> Rgb:
    """A background of this size: it fills it all, keeps its proportions, and is cut off evenly."""
    return np.asarray(
        ImageOps.fit(Image.fromarray(background), (width, height), Image.Resampling.LANCZOS)
    )
