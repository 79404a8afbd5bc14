"""Pictures as they must not be, and as they rarely are; from a seed, so that runs repeat."""

import io
import math
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageCms, ImageOps

from inference.probe import DEFAULT_LIMITS, accepted_formats
from tests.support.icc_profiles import named_profile
from tests.support.pictures import exif_orientation, picture_file, read_picture
from tests.support.png_files import png_chunk, png_file

#: Modes that a format's writer takes as they are.
MODES = {
    "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
}
_HEADERS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"RIFF\0\0\0\0WEBP",
)
SIZES = ((1, 1), (1, 2), (2, 2), (3, 1), (1, 4000), (4000, 1), (4000, 2), (17, 31), (320, 320))


@dataclass(frozen=True)
class Fuzzed:
    """A file; the sizes that a picture in it may have, oriented, as Pillow sees it."""

    name: str
    data: bytes
    sizes: frozenset[tuple[int, int]]

    def check_cutout(self, cutout: bytes) -> None:
        """Check what holds for each cutout: its size, and zeros where nothing is seen."""
        image = read_picture(cutout)
        assert (image.format, image.mode) == ("PNG", "RGBA"), self.name
        assert not self.sizes or image.size in self.sizes, self.name
        pixels = np.asarray(image)
        assert not pixels[pixels[..., 3] == 0].any(), self.name


def fuzzed(count: int, seed: int) -> Iterator[Fuzzed]:
    """So many, every kind in turn; the same for the same seed."""
    random_ = random.Random(seed)
    kinds = tuple(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        data = KINDS[kind](random_)
        yield Fuzzed(f"{number}-{kind}", data, frozenset(_sizes(kind, data)))


#: What a length, count or offset says when it lies.
_EXTREMES = (0, 1, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def mutated_headers(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many files with lies in their structure, every format in turn, and the format's name."""
    random_ = random.Random(seed)
    names = accepted_formats()
    wholes = [picture_file(_picture(random_, size=(96, 64)), name) for name in names]
    for number in range(count):
        data = bytearray(wholes[number % len(names)])
        for _ in range(random_.randint(1, 6)):
            random_.choice(_MUTATIONS)(random_, data)
        yield names[number % len(names)], bytes(data)


def _place(random_: random.Random, data: bytearray) -> int:
    """Somewhere behind the signature, mostly in the header."""
    return random_.randrange(4, max(5, min(len(data), random_.choice((64, 600, 1 << 20)))))


def _write_extreme(random_: random.Random, data: bytearray) -> None:
    at, size = _place(random_, data), random_.choice((1, 2, 4, 8))
    value = random_.choice((*_EXTREMES, len(data), random_.randrange(len(data) + 1)))
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(
        size, random_.choice(("big", "little"))
    )


def _repeat(random_: random.Random, data: bytearray) -> None:
    at = _place(random_, data)
    piece = data[at : at + random_.choice((1, 2, 8, 16, 40))]
    data[at:at] = piece * random_.choice((1, 3, 200, 5000))


def _cut_out(random_: random.Random, data: bytearray) -> None:
    at = _place(random_, data)
    del data[at : at + random_.choice((1, 2, 7, 300))]


_MUTATIONS = (_write_extreme, _write_extreme, _repeat, _cut_out)


def _sizes(kind: str, data: bytes) -> Iterator[tuple[int, int]]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            # The service refuses larger ones, which Pillow has no limit for: 9,900 megapixels of a
            # damaged header are 18 GB of memory.
            if math.prod(image.size) > DEFAULT_LIMITS.max_pixels:
                return
            width, height = ImageOps.exif_transpose(image).size
    except Exception:  # noqa: BLE001 - Pillow raises whatever its plugins met
        return
    yield width, height
    # Readers differ in what they make of an orientation that is damaged itself.
    if kind in _DAMAGED:
        yield height, width


def _picture(
    random_: random.Random, mode: str = "RGB", size: tuple[int, int] | None = None
) -> Image.Image:
    width, height = size or (random_.randint(8, 160), random_.randint(8, 160))
    noise = Image.frombytes("L", (8, 8), random_.randbytes(64)).resize((width, height))
    channels = [noise, ImageOps.mirror(noise), ImageOps.invert(noise)]
    image = Image.merge("RGB", channels)
    if mode == "I;16":
        return noise.convert("I").point(lambda value: value * 257).convert("I;16")
    if mode == "LAB":
        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")  # type: ignore[return-value]
    if mode in {"LA", "RGBA"}:
        image.putalpha(noise)
    return image.convert(mode)


def _any_mode(random_: random.Random) -> bytes:
    name = random_.choice(tuple(MODES))
    exif = {}
    if name in {"JPEG", "PNG", "WEBP", "TIFF"}:
        exif["exif"] = exif_orientation(random_.choice((*range(1, 9), 0, 9, 77)))
    return picture_file(_picture(random_, random_.choice(MODES[name])), name, **exif)


def _any_size(random_: random.Random) -> bytes:
    name = random_.choice(("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"))
    return picture_file(_picture(random_, size=random_.choice(SIZES)), name)


def _truncated(random_: random.Random) -> bytes:
    whole = _any_mode(random_)
    return whole[: random_.randrange(len(whole))]


def _bits_flipped(random_: random.Random) -> bytes:
    data = bytearray(_any_mode(random_))
    for _ in range(random_.choice((1, 3, 20, 200))):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    return bytes(data)


def _bits_flipped_behind_the_header(random_: random.Random) -> bytes:
    name = random_.choice(("JPEG", "PNG", "WEBP"))
    data = bytearray(picture_file(_picture(random_, size=(120, 90)), name))
    for _ in range(random_.choice((1, 5, 50))):
        data[random_.randrange(len(data) // 2, len(data))] ^= 1 << random_.randrange(8)
    return bytes(data)


def _wrong_header(random_: random.Random) -> bytes:
    return random_.choice(_HEADERS) + _any_mode(random_)[random_.randrange(1, 20) :]


def _noise(random_: random.Random) -> bytes:
    return random_.choice((b"", b"", b"\0", random_.randbytes(random_.randrange(5000))))


@cache
def _bombs() -> tuple[bytes, ...]:
    zeros = zlib.compress(bytes(20_000_000), 9)
    return (
        png_file((60_000, 60_000), zeros),  # more pixels than are taken
        png_file((2**31 - 1, 1), zeros),
        png_file((64, 64), zeros),  # more bytes than pixels
        png_file((3000, 3000), zeros[:200]),  # fewer
        png_file((32, 32), zlib.compress(bytes(33 * 32)), png_chunk(b"zTXt", b"k\0\0" + zeros)),
        png_file((0, 0), zeros),
    )


def _bomb(random_: random.Random) -> bytes:
    return random_.choice(_bombs())


def _animated(random_: random.Random) -> bytes:
    name = random_.choice(("GIF", "WEBP", "PNG", "TIFF"))
    frames = [_picture(random_, size=(48, 40)) for _ in range(4)]
    return picture_file(frames[0], name, save_all=True, append_images=frames[1:])


def _profiled(random_: random.Random) -> bytes:
    profiles = (named_profile("sRGB"), named_profile("LAB"), random_.randbytes(300), b"")
    mode = random_.choice(("L", "RGB", "CMYK"))
    return picture_file(_picture(random_, mode), "JPEG", icc_profile=random_.choice(profiles))


def _transparent_palette(random_: random.Random) -> bytes:
    image = _picture(random_, "P")
    return picture_file(image, random_.choice(("PNG", "GIF")), transparency=random_.randrange(256))


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "mode": _any_mode,
    "truncated": _truncated,
    "bits": _bits_flipped,
    "size": _any_size,
    "body-bits": _bits_flipped_behind_the_header,
    "header": _wrong_header,
    "bomb": _bomb,
    "animated": _animated,
    "profile": _profiled,
    "noise": _noise,
    "palette": _transparent_palette,
}
#: Kinds whose metadata may be damaged.
_DAMAGED = {"truncated", "bits", "header"}
