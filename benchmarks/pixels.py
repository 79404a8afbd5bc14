"""Everything but inference on a 2000 x 1333 photo, step by step, and the encoders side by side."""

import io
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.tables import table
from deploy.bench.processes import machine
from inference.alpha import combine_alpha
from inference.compose import Layer, compose
from inference.decode import Picture, decode
from inference.encode import encode, encode_png
from inference.models.base import Alpha, Rgb
from inference.models.onnx import preprocess, resize_matte
from inference.models.registry import get_spec
from inference.options import Options, OutputFormat
from inference.refine import estimate_foreground

RUNS = 7
SIZE = (2000, 1333)
SIDE = 320
PHOTO = Path(__file__).parents[1] / "tests" / "data" / "coffee.jpg"


def large_jpeg() -> bytes:
    """The sample photo enlarged, with a camera's grain, as a JPEG."""
    photo = Image.open(PHOTO).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    grain = np.random.default_rng(0).normal(0, 3, (SIZE[1], SIZE[0], 3))
    noisy = np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=92)
    return file.getvalue()


def soft_matte() -> Alpha:
    """A matte as the model gives it: SIDE x SIDE, a saucer with a soft edge, zeros outside."""
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (45, 20, 255, 305))
    blurred = np.asarray(mask.filter(ImageFilter.GaussianBlur(4)), np.float32) / 255
    return np.where(blurred < 2 / 255, np.float32(0), blurred)


def milliseconds(work: Callable[[], object]) -> float:
    """The median of some runs, after one that warms up."""
    work()
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def steps(data: bytes, picture: Picture, matte: Alpha) -> list[tuple[str, float]]:
    """Each step's milliseconds, as the pipeline takes them."""
    width, height = SIZE
    large = resize_matte(matte, width, height)
    cutout = compose(Layer(picture.rgb, combine_alpha(large, picture.alpha)))
    return [
        ("decode", milliseconds(lambda: decode(data))),
        ("preprocess", milliseconds(lambda: preprocess(picture.rgb, get_spec("u2netp")))),
        ("resize the matte", milliseconds(lambda: resize_matte(matte, width, height))),
        ("estimate the foreground", milliseconds(lambda: estimate_foreground(picture.rgb, large))),
        ("compose", milliseconds(lambda: compose(Layer(picture.rgb, combine_alpha(large, None))))),
        ("encode", milliseconds(lambda: encode(cutout, Options()))),
    ]


def pillow(pixels: NDArray[np.uint8], name: str, **parameters: int | bool) -> bytes:
    """Pillow's file of these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name, **parameters)
    return file.getvalue()


def compare(title: str, rivals: Sequence[tuple[str, Callable[[], bytes]]]) -> None:
    """Print time and size of some encoders; the first one is what the others are held against."""
    measured = [(name, milliseconds(work), len(work())) for name, work in rivals]
    _, first_ms, first_size = measured[0]
    rows = [
        (
            name,
            f"{ms:.0f} ms ({ms / first_ms:.1f} x)",
            f"{size / 1e6:.2f} MB ({size / first_size:.2f} x)",
        )
        for name, ms, size in measured
    ]
    table((title, "time", "size"), rows)


def compare_encoders(cutout: NDArray[np.uint8], filled: Rgb) -> None:
    """PNG, WebP and JPEG, at the settings that were weighed against each other."""
    webp = Options(output_format=OutputFormat.WEBP)
    jpg = Options(output_format=OutputFormat.JPG, matte_color=(255, 255, 255, 255))
    compare(
        "PNG, RGBA",
        [
            ("ours", lambda: encode_png(cutout)),
            ("Pillow, level 1", lambda: pillow(cutout, "PNG", compress_level=1)),
            ("Pillow, level 6", lambda: pillow(cutout, "PNG", compress_level=6)),
        ],
    )
    compare(
        "WebP, quality 92",
        [("ours", lambda: encode(cutout, webp))]
        + [
            (f"method {m}", partial(pillow, cutout, "WEBP", quality=92, method=m)) for m in range(5)
        ],
    )
    compare(
        "JPEG, quality 92",
        [
            ("ours", lambda: encode(filled, jpg)),
            ("4:2:0", lambda: pillow(filled, "JPEG", quality=92, subsampling=2)),
            (
                "4:4:4, optimized",
                lambda: pillow(filled, "JPEG", quality=92, subsampling=0, optimize=True),
            ),
            (
                "4:4:4, progressive",
                lambda: pillow(filled, "JPEG", quality=92, subsampling=0, progressive=True),
            ),
        ],
    )


def main() -> None:
    """Measure and print the tables."""
    data = large_jpeg()
    picture, matte = decode(data), soft_matte()
    rows = steps(data, picture, matte)
    total = sum(ms for _, ms in rows)
    print(machine())
    table(
        (f"{SIZE[0]} x {SIZE[1]} JPEG, {len(data) / 1e6:.1f} MB", "median", "target"),
        [(name, f"{ms:.0f} ms", "") for name, ms in rows]
        + [("all but inference", f"{total:.0f} ms", "150 ms")],
    )
    subject = Layer(picture.rgb, combine_alpha(resize_matte(matte, *SIZE), picture.alpha))
    compare_encoders(compose(subject), compose(subject, (255, 255, 255, 255)))


if __name__ == "__main__":
    main()
