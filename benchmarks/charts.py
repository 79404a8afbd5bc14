"""Draws the charts of the docs as SVG, on a card that can be read on a light and on a dark page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 760
HEIGHT: Final = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 40, 48
_TICKS: Final = 5
_COLORS: Final = (("#0b62c4", "#6fb1ff"), ("#b4450f", "#ffa36b"), ("#1c7a3c", "#6fd68f"))


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(
    lines: Sequence[Line], *, x: str, y: str, marks: Sequence[tuple[str, float]] = ()
) -> str:
    """Return a chart of some lines that begin at zero.

    Args:
        lines: three at most.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        marks: what happened, and where on the horizontal axis.
    """
    most_x = _round_up(max(point[0] for line in lines for point in line.points))
    most_y = _round_up(max(point[1] for line in lines for point in line.points))

    def place(at_x: float, at_y: float) -> tuple[float, float]:
        across = _LEFT + at_x / most_x * (WIDTH - _LEFT - _RIGHT)
        return across, HEIGHT - _BOTTOM - at_y / most_y * (HEIGHT - _TOP - _BOTTOM)

    title = f"{y} by {x}: {', '.join(line.name for line in lines)}"
    parts = [head(title, WIDTH, HEIGHT, _line_styles())]
    for step in range(_TICKS + 1):
        across, down = place(most_x * step / _TICKS, most_y * step / _TICKS)
        parts += [
            f'<path class="grid" d="M{_LEFT} {down:.1f}H{WIDTH - _RIGHT}"/>',
            text(_LEFT - 8, down + 4, f"{most_y * step / _TICKS:g}", "end"),
            text(across, HEIGHT - _BOTTOM + 18, f"{most_x * step / _TICKS:g}", "middle"),
        ]
    parts += [
        text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 10, x, "middle"),
        text(12, _TOP - 16, y, "start"),
    ]
    for name, at in marks:
        across, _ = place(at, 0)
        parts.append(f'<path class="mark" d="M{across:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
        parts.append(text(across + 4, _TOP + 12, name, "start"))
    for number, line in enumerate(lines):
        path = "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in line.points)
        dashed = "" if number == 0 else ' stroke-dasharray="6 4"'
        parts.append(f'<path class="line c{number}"{dashed} d="M{path}"/>')
        across = WIDTH - _RIGHT - 130 * (len(lines) - number)
        parts.append(f'<path class="line c{number}"{dashed} d="M{across} {_TOP - 20}h28"/>')
        parts.append(text(across + 34, _TOP - 16, line.name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def head(title: str, width: float, height: float, style: str) -> str:
    """Return the start of a picture: its title, its styles, and the card that it is drawn on."""
    colors = (
        "text{font:13px sans-serif;fill:#24292f}.card{fill:#fff;stroke:#d0d7de}"
        "@media (prefers-color-scheme:dark){text{fill:#d1d7e0}.card{fill:#0d1117;stroke:#3d444d}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img"><title>{escape(title)}</title><style>{colors}{style}</style>\n'
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" '
        'rx="6"/>'
    )


def text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    """Return words that start, end or have their middle at a place."""
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line_styles() -> str:
    light = "".join(f".c{number}{{stroke:{each[0]}}}" for number, each in enumerate(_COLORS))
    dark = "".join(f".c{number}{{stroke:{each[1]}}}" for number, each in enumerate(_COLORS))
    return (
        ".grid{stroke:#d0d7de}.mark{stroke:#8c959f;stroke-dasharray:2 3}.line{fill:none;"
        f"stroke-width:2}}{light}@media (prefers-color-scheme:dark){{.grid{{stroke:#3d444d}}"
        f"{dark}}}"
    )


def _round_up(value: float) -> float:
    """Return the next value that has round ticks."""
    unit = 10.0 ** (len(f"{int(value)}") - 1)
    return next(unit * step for step in (1, 2, 2.5, 5, 10) if unit * step >= value)
