"""`rmbg bench service --pictures N`: whether the memory of a service grows with its pictures.

Memory does not depend on how fast the pictures come, so this may run on a busy machine. The
pictures are small and of mixed sizes, formats and kinds, since what allocators keep depends on what
they were asked for; most bring their own transparency, for which no model runs.
"""

import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from PIL import Image

from deploy.bench.processes import running_stack
from deploy.bench.service import OurService, make_photo, table

#: Sides of the pictures in pixels, and the formats of their results.
_SIDES: Final = ((160, 120), (612, 408), (333, 500), (900, 600), (1200, 800))
_OUTPUTS: Final = ("png", "webp", "jpg")
#: Of so many pictures one is a photo, for which the model runs.
_PHOTO_EVERY: Final = 4
_CLIENTS: Final = 4
#: Pictures after the first of which memory is read, and between two further readings.
_FIRST_READING, _BETWEEN_READINGS = 10, 500

#: Resident megabytes by process, by how many pictures were cut out before.
Readings = Mapping[int, Mapping[str, float]]


def reading_points(pictures: int) -> list[int]:
    """Return after how many pictures memory is read: 10, 500, 1,000, and so on, and at the end."""
    between = range(_BETWEEN_READINGS, pictures, _BETWEEN_READINGS)
    return sorted({min(_FIRST_READING, pictures), *between, pictures})


def measure_memory(
    model: str,
    pictures: int,
    *,
    up_options: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _line: None,
) -> Readings:
    """Let a service of its own cut so many pictures out, and read its memory on the way.

    Raises:
        StackError, ClientError: the service did not start, or failed.
    """
    readings: dict[int, Mapping[str, float]] = {}
    jobs = _jobs()
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(_CLIENTS) as pool,
        running_stack(Path(folder), ("--model", model, *up_options)) as stack,
    ):
        service, done = OurService(stack.url), 0
        for point in reading_points(pictures):
            progress(f"{point:,} pictures")
            part = itertools.islice(jobs, point - done)
            list(pool.map(lambda job: service.cut_out(*job), part))
            done = point
            resident = stack.usage().resident
            readings[point] = {name: size / 2**20 for name, size in resident.items()}
    return readings


def memory_table(readings: Readings) -> str:
    """Return the readings as a Markdown table: a line for each process, the largest first."""
    points = list(readings)
    last = readings[points[-1]]
    middle = points[min(1, len(points) - 1)]
    head = ("resident MB after", *(f"{point:,}" for point in points), f"since {middle:,}")
    rows = [
        (
            name,
            *(f"{readings[point].get(name, 0):,.0f}" for point in points),
            f"{last[name] / readings[middle][name] - 1:+.1%}" if readings[middle].get(name) else "",
        )
        for name in sorted(last, key=lambda each: -last[each])
    ]
    return "\n".join(table(head, rows))


def _jobs() -> Iterator[tuple[bytes, str]]:
    """Yield pictures and the formats of their results, without end and in the same order always."""
    large = Image.open(io.BytesIO(make_photo("2.7", "jpg"))).convert("RGB")
    photos, cutouts = [], []
    for width, height in _SIDES:
        small = large.resize((width, height))
        photos.append(_encoded(small, "JPEG"))
        # An ellipse, as somebody might have cut it out before.
        small.putalpha(Image.radial_gradient("L").resize(small.size).point(lambda x: 255 - x))
        cutouts += [_encoded(small, kind) for kind in ("PNG", "WEBP")]
    of_a_kind = (itertools.cycle(photos), itertools.cycle(cutouts))
    for number, output in zip(itertools.count(), itertools.cycle(_OUTPUTS), strict=False):
        yield next(of_a_kind[number % _PHOTO_EVERY > 0]), output


def _encoded(picture: Image.Image, kind: str) -> bytes:
    output = io.BytesIO()
    picture.save(output, kind)
    return output.getvalue()
