"""The lines of `rmbg up`, and its self-check, which accepts a cutout and nothing else."""

import io
from typing import Literal

import pytest
from PIL import Image
from rich.console import Console

from deploy.local.service import SelfCheckError
from deploy.local.up import Screen, check_cutout

SIZE = (40, 30)


@pytest.mark.parametrize(
    ("is_terminal", "expected"),
    [
        (False, "api     | [bold]x[/] /healthz " + "y" * 200 + "\n"),
        (True, "\x1b[32mapi     | \x1b[0m[bold]x[/] /healthz " + "y" * 200 + "\n"),
    ],
    ids=["plain", "terminal"],
)
def test_a_line_is_printed_unchanged_behind_its_name(*, is_terminal: bool, expected: str) -> None:
    text = io.StringIO()
    colors: Literal["auto", "standard"] = "standard" if is_terminal else "auto"
    console = Console(file=text, force_terminal=is_terminal, color_system=colors, width=80)
    Screen(console).line("api", "[bold]x[/] /healthz " + "y" * 200)
    assert text.getvalue() == expected


def _cutout(
    size: tuple[int, int] = SIZE,
    *,
    low: int = 0,
    high: int = 255,
    mode: str = "RGBA",
    form: str = "PNG",
) -> bytes:
    image = Image.new("RGBA", size, (200, 0, 0, low))
    image.paste((200, 0, 0, high), (5, 5, 20, 20))
    file = io.BytesIO()
    image.convert(mode).save(file, form)
    return file.getvalue()


def test_a_cutout_passes_the_self_check() -> None:
    check_cutout(_cutout(), SIZE)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (_cutout((40, 31)), "40×31"),
        (_cutout(mode="RGB"), "PNG RGB"),
        (_cutout(form="WEBP"), "WEBP"),
        (_cutout(low=255), "from 255 to 255"),
        (_cutout(high=0), "from 0 to 0"),
        (b"<html>", "no image"),
    ],
    ids=["size", "no alpha", "format", "opaque", "clear", "no image"],
)
def test_anything_else_fails_the_self_check(data: bytes, complaint: str) -> None:
    with pytest.raises(SelfCheckError, match=complaint):
        check_cutout(data, SIZE)
