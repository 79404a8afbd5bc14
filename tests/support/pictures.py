"""Pictures whose subject is known, and the files of pictures."""

import io
from importlib import import_module

import numpy as np
from PIL import ExifTags, Image

from inference.layout import Box
from inference.models.base import Alpha, Rgb

RED, BLUE = (200, 30, 40), (20, 60, 220)
#: The subject of a picture that names no other.
SUBJECT = Box(60, 50, 160, 90)


def subject_picture(size: tuple[int, int] = (300, 200), *boxes: Box) -> Image.Image:
    """Red rectangles on blue; `SUBJECT` alone unless others are named."""
    rows = np.full((size[1], size[0], 3), BLUE, np.uint8)
    for box in boxes or (SUBJECT,):
        rows[box.slices] = RED
    return Image.fromarray(rows)


def find_red(image: Rgb) -> Alpha:
    """The matte of a model whose subject is what is more red than blue."""
    return (image[..., 0] > image[..., 2]).astype(np.float32)


def picture_file(image: Image.Image, name: str = "PNG", **parameters: object) -> bytes:
    """A picture in a format of Pillow, or HEIC; the parameters are those of its writer."""
    file = io.BytesIO()
    if name == "HEIC":
        import_module("pillow_heif").register_heif_opener()
        name = "HEIF"
    image.save(file, name, **parameters)
    return file.getvalue()


def jpeg_of_frame(image: Image.Image, frame: bytes, bits: int) -> bytes:
    """A baseline JPEG that says it has a frame of another kind, and samples of so many bits."""
    before, after = picture_file(image, "JPEG").split(b"\xff\xc0\0\x11\x08")
    return before + b"\xff" + frame + b"\0\x11" + bytes([bits]) + after


def height_behind_the_scan(data: bytes, height: int) -> bytes:
    """A baseline JPEG whose frame leaves its height open, which a segment DNL says later."""
    frame = data.index(b"\xff\xc0") + 5
    lines = b"\xff\xdc\0\4" + height.to_bytes(2, "big")
    return data[:frame] + b"\0\0" + data[frame + 2 : -2] + lines + data[-2:]


def ended_early(data: bytes) -> bytes:
    """A file whose first JPEG has its end mark before its last data, of the same length."""
    end = data.index(b"\xff\xd9")
    return data[: end - 20] + b"\xff\xd9" + bytes(18) + data[end:]


def read_picture(data: bytes) -> Image.Image:
    """Read the whole of a picture's file."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def exif_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    return exif
