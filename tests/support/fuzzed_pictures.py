"""Pictures as they must not be, and as they rarely are; from a seed, so that runs repeat."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageCms, ImageOps

#: Modes that a format's writer takes as they are.
MODES = {
    "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
}
SIZES = ((1, 1), (1, 2), (2, 2), (3, 1), (1, 4000), (4000, 1), (4000, 2), (17, 31), (320, 320))


@dataclass(frozen=True)
class Fuzzed:
    """A file; the size of the picture in it where it is one, oriented, as Pillow sees it."""

    name: str
    data: bytes
    size: tuple[int, int] | None


def fuzzed(count: int, seed: int) -> Iterator[Fuzzed]:
    """So many, every kind in turn; the same for the same seed."""
    random_ = random.Random(seed)
    kinds = tuple(_KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        data = _KINDS[kind](random_)
        yield Fuzzed(f"{number}-{kind}", data, _size(data))


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = ImageOps.exif_transpose(image).size
    except Exception:  # noqa: BLE001 - Pillow raises whatever its plugins met
        return None
    return width, height


def _save(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


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
    return _save(_picture(random_, random_.choice(MODES[name])), name)


def _any_size(random_: random.Random) -> bytes:
    name = random_.choice(("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"))
    return _save(_picture(random_, size=random_.choice(SIZES)), name)


def _truncated(random_: random.Random) -> bytes:
    whole = _any_mode(random_)
    return whole[: random_.randrange(len(whole))]


def _bits_flipped(random_: random.Random) -> bytes:
    data = bytearray(_any_mode(random_))
    for _ in range(random_.choice((1, 3, 20, 200))):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    return bytes(data)


def _bits_flipped_behind_the_header(random_: random.Random) -> bytes:
    data = bytearray(
        _save(_picture(random_, size=(120, 90)), random_.choice(("JPEG", "PNG", "WEBP")))
    )
    for _ in range(random_.choice((1, 5, 50))):
        data[random_.randrange(len(data) // 2, len(data))] ^= 1 << random_.randrange(8)
    return bytes(data)


def _wrong_header(random_: random.Random) -> bytes:
    headers = (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"BM",
        b"II*\x00",
        b"RIFF\0\0\0\0WEBP",
    )
    return random_.choice(headers) + _any_mode(random_)[random_.randrange(1, 20) :]


def _noise(random_: random.Random) -> bytes:
    return random_.choice((b"", b"", b"\0", random_.randbytes(random_.randrange(5000))))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


def _bomb(random_: random.Random) -> bytes:
    zeros = zlib.compress(bytes(20_000_000), 9)
    return random_.choice(
        (
            lambda: _png(60_000, 60_000, zeros),  # more pixels than are taken
            lambda: _png(2**31 - 1, 1, zeros),
            lambda: _png(64, 64, zeros),  # more bytes than pixels
            lambda: _png(3000, 3000, zeros[:200]),  # fewer
            lambda: _png(32, 32, zlib.compress(bytes(33 * 32)), _chunk(b"zTXt", b"k\0\0" + zeros)),
            lambda: _png(0, 0, zeros),
        )
    )()


def _animated(random_: random.Random) -> bytes:
    name = random_.choice(("GIF", "WEBP", "PNG", "TIFF"))
    frames = [_picture(random_, size=(48, 40)) for _ in range(4)]
    return _save(frames[0], name, save_all=True, append_images=frames[1:])


def _oriented(random_: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = random_.choice((*range(1, 9), 0, 9, 77))
    name = random_.choice(("JPEG", "PNG", "WEBP", "TIFF"))
    return _save(_picture(random_, size=(60, 40)), name, exif=exif)


def _profiled(random_: random.Random) -> bytes:
    profile = random_.choice(
        (
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
            ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
            random_.randbytes(300),
            b"",
        )
    )
    mode = random_.choice(("L", "RGB", "CMYK"))
    return _save(_picture(random_, mode), "JPEG", icc_profile=profile)


def _transparent_palette(random_: random.Random) -> bytes:
    image = _picture(random_, "P")
    return _save(image, random_.choice(("PNG", "GIF")), transparency=random_.randrange(256))


_KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "mode": _any_mode,
    "truncated": _truncated,
    "bits": _bits_flipped,
    "size": _any_size,
    "body-bits": _bits_flipped_behind_the_header,
    "header": _wrong_header,
    "oriented": _oriented,
    "bomb": _bomb,
    "animated": _animated,
    "profile": _profiled,
    "noise": _noise,
    "palette": _transparent_palette,
}
