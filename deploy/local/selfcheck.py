"""The start's proof: a real photo, cut out through the public API."""

import io
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final, cast

from PIL import Image, UnidentifiedImageError

from deploy.client import ClientError, ServiceClient
from deploy.local.errors import SelfCheckError

#: Alpha of a background and of a subject; a matte may miss both ends by a little.
_NEARLY_CLEAR: Final = 10
_NEARLY_SOLID: Final = 245


def cut_out_sample(api_url: str, target: Path) -> None:
    """Send the bundled photo, fetch its cutout, look at it and keep it.

    Raises:
        SelfCheckError: the service failed, or what came back is no cutout of that photo.
    """
    sample = files("deploy.local").joinpath("sample.jpg")
    with as_file(sample) as photo, ServiceClient(api_url) as client:
        try:
            cutout = client.cut_out(photo, {"cache": "false"})
        except ClientError as error:
            raise SelfCheckError(f"The sample photo was not cut out: {error}") from error
        with Image.open(photo) as image:
            size = image.size
    require_cutout(cutout, size)
    target.write_bytes(cutout)


def require_cutout(png: bytes, size: tuple[int, int]) -> None:
    """Insist on a PNG of this width and height, in part transparent and in part opaque.

    Raises:
        SelfCheckError: it is something else.
    """
    try:
        with Image.open(io.BytesIO(png)) as image:
            if image.format != "PNG" or image.mode != "RGBA" or image.size != size:
                what = f"{image.format} {image.mode} of {image.width}×{image.height}"
                raise SelfCheckError(f"The sample came back as {what}, not as an RGBA PNG {size}.")
            low, high = cast("tuple[int, int]", image.getchannel("A").getextrema())
    except UnidentifiedImageError as error:
        raise SelfCheckError("What came back for the sample is no picture.") from error
    if low > _NEARLY_CLEAR or high < _NEARLY_SOLID:
        raise SelfCheckError(f"The sample's alpha runs from {low} to {high}: nothing was cut out.")
