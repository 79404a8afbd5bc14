"""Presets: parameters of a submission that suit a purpose, under one name."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final


class Preset(StrEnum):
    """The names of the presets."""

    #: The main picture of a product on a marketplace: pure white, and most of it product.
    MARKETPLACE = "marketplace"
    #: A square picture for a shop, with a soft shadow.
    SQUARE = "square"
    #: Trimmed to the subject, without a background.
    TRANSPARENT = "transparent"
    #: A person, upright.
    PORTRAIT = "portrait"


#: By name, the API's parameters. The API serves this table, the page and `rmbg remove` use it.
PRESETS: Final[Mapping[Preset, Mapping[str, Any]]] = MappingProxyType(
    {
        Preset.MARKETPLACE: {
            "output_format": "jpg",
            "matte_color": "#ffffff",
            "canvas": "2000x2000",
            "scale": "85%",
        },
        Preset.SQUARE: {
            "output_format": "webp",
            "matte_color": "#f4f4f2",
            "canvas": "1080x1080",
            "scale": "80%",
            "shadow": "drop",
            "shadow_opacity": 35,
        },
        Preset.TRANSPARENT: {"output_format": "png", "crop": True, "crop_margin": "5%"},
        Preset.PORTRAIT: {
            "output_format": "jpg",
            "matte_color": "#e6e8ec",
            "canvas": "1080x1350",
            "scale": "95%",
        },
    }
)
