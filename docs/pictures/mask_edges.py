"""Make `docs/pictures/mask-edges.png`: a part of one photo, cut out with each option of the edge.

python docs/pictures/mask_edges.py FOLDER_OF_MODELS docs/pictures/mask-edges.png
"""

import io
import sys
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw

from inference.models.base import MattingModel
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.options import Options
from inference.pipeline import remove_background

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.jpg"
#: Left, top, right, bottom: where there are both hair and a plain edge.
PART = (60, 20, 260, 220)
COLOR = (40, 200, 120, 255)
VARIANTS: tuple[Mapping[str, object], ...] = (
    {},
    {"mask_threshold": 50},
    {"mask_offset": -6},
    {"mask_offset": 6},
    {"mask_feather": 12},
)
GAP, CAPTION = 8, 20


def draw(model: MattingModel, options: Mapping[str, object]) -> Image.Image:
    """Return the part, on a color, with a caption below."""
    result = remove_background(
        PHOTO.read_bytes(), Options.from_dict({"matte_color": COLOR, **options}), model
    )
    part = Image.open(io.BytesIO(result.data)).convert("RGB").crop(PART)
    panel = Image.new("RGB", (part.width, part.height + CAPTION), "white")
    panel.paste(part, (0, 0))
    words = ", ".join(f"{name}={value}" for name, value in options.items()) or "as it is"
    ImageDraw.Draw(panel).text((4, part.height + 4), words, fill="black", font_size=14)
    return panel


def main(models: Path, target: Path) -> None:
    """Write all variants side by side."""
    spec = get_spec("u2netp")
    model = load_model(spec, models / spec.file_name, device="cpu")
    panels = [draw(model, variant) for variant in VARIANTS]
    width = sum(each.width + GAP for each in panels) - GAP
    row = Image.new("RGB", (width, panels[0].height), "white")
    for number, panel in enumerate(panels):
        row.paste(panel, (number * (panel.width + GAP), 0))
    row.quantize(192).save(target, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
