"""Make `docs/before-after.png` from a photo and its cutout, side by side.

rmbg remove tests/data/coffee.jpg -o out
python docs/pictures/before_after.py tests/data/coffee.jpg out/coffee.png docs/before-after.png
"""

import sys
from pathlib import Path

from PIL import Image

SQUARE = 12
LIGHT, DARK = (255, 255, 255, 255), (221, 221, 221, 255)


def checkerboard(width: int, height: int) -> Image.Image:
    """Return the gray checkerboard that image editors show behind transparent pixels."""
    small = Image.new("RGBA", (width // SQUARE + 1, height // SQUARE + 1), LIGHT)
    for x in range(small.width):
        for y in range(small.height):
            if (x + y) % 2:
                small.putpixel((x, y), DARK)
    board = small.resize((small.width * SQUARE, small.height * SQUARE), Image.Resampling.NEAREST)
    return board.crop((0, 0, width, height))


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """Return a picture with the photo on the left and its cutout on a checkerboard on the right."""
    width, height = after.size
    both = Image.new("RGBA", (2 * width + SQUARE, height), LIGHT)
    both.paste(before, (0, 0))
    board = checkerboard(width, height)
    board.alpha_composite(after)
    both.paste(board, (width + SQUARE, 0))
    return both.convert("RGB")


def main(before: Path, after: Path, target: Path) -> None:
    """Write the picture for the photo `before` and the cutout `after` to `target`."""
    with Image.open(before) as photo, Image.open(after) as cutout:
        side_by_side(photo, cutout).quantize(192).save(target, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
