"""EXIF orientation, applied to a picture strip by strip."""

from dataclasses import dataclass

from PIL import ExifTags, Image

Transpose = Image.Transpose


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored rows become shown ones."""

    method: Transpose | None = None
    #: Do stored rows become columns?
    sideways: bool = False
    #: Does the first stored row come last?
    backwards: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The shown width and height of a picture stored with these."""
        return (height, width) if self.sideways else (width, height)

    def apply(self, strip: Image.Image) -> Image.Image:
        """A strip of stored rows as it is shown."""
        return strip if self.method is None else strip.transpose(self.method)

    def place(self, top: int, bottom: int, height: int) -> tuple[slice, ...]:
        """Where the stored rows top..bottom, of `height`, lie in the shown array."""
        rows = slice(height - bottom, height - top) if self.backwards else slice(top, bottom)
        return (slice(None), rows) if self.sideways else (rows,)


_UPRIGHT = Orientation()
# Exif 3.0, 4.6.5.1.6 "Orientation".
_ORIENTATIONS = (
    _UPRIGHT,
    Orientation(Transpose.FLIP_LEFT_RIGHT),
    Orientation(Transpose.ROTATE_180, backwards=True),
    Orientation(Transpose.FLIP_TOP_BOTTOM, backwards=True),
    Orientation(Transpose.TRANSPOSE, sideways=True),
    Orientation(Transpose.ROTATE_270, sideways=True, backwards=True),
    Orientation(Transpose.TRANSVERSE, sideways=True, backwards=True),
    Orientation(Transpose.ROTATE_90, sideways=True),
)


def read_orientation(image: Image.Image) -> Orientation:
    """What the EXIF data of a loaded picture say; upright when they are absent or broken."""
    try:
        number = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - a picture is not refused for its broken metadata
        return _UPRIGHT
    if isinstance(number, int) and 1 <= number <= len(_ORIENTATIONS):
        return _ORIENTATIONS[number - 1]
    return _UPRIGHT
