"""The lines of `rmbg up`: coloured on a terminal, plain elsewhere, never read for markup."""

import io
from typing import Literal

import pytest
from rich.console import Console

from deploy.local.up import Screen


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
