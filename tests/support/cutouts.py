"""Cutouts made in this process, of pictures whose subject is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.models.base import Alpha, Rgb
from inference.options import Options
from inference.pipeline import Result, remove_background
from inference.probe import DEFAULT_LIMITS, ImageLimits
from tests.support.models import FakeModel
from tests.support.pictures import find_red, picture_file, read_picture, subject_picture


def cut_out(
    picture: Image.Image | bytes | None = None,
    *,
    find: Callable[[Rgb], Alpha] = find_red,
    background: bytes | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    **options: Any,  # noqa: ANN401 - those of `Options.from_dict`
) -> tuple[Result, NDArray[np.uint8]]:
    """A result and its pixels; of `subject_picture()` and not refined unless told otherwise."""
    picture = subject_picture() if picture is None else picture
    data = picture if isinstance(picture, bytes) else picture_file(picture)
    result = remove_background(
        data,
        Options.from_dict({"refine": False, **options}),
        FakeModel(find=find),
        background=background,
        limits=limits,
    )
    pixels = np.asarray(read_picture(result.data))
    assert pixels.shape[:2] == (result.height, result.width)
    return result, pixels
