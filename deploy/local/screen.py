"""What `rmbg up` shows: one table of what runs where, then everybody's lines."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.local.supervisor import Child, ChildState

_COLORS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")
_PREFIX_WIDTH: Final = 7


class Screen:
    """Writes to one console; rich leaves the colours out where it is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._styles: dict[str, str] = {"rmbg": "bold"}

    @property
    def is_terminal(self) -> bool:
        """Whether a person is looking."""
        return self._console.is_terminal

    def line(self, name: str, text: str) -> None:
        """One line of a child, behind its name."""
        style = self._styles.setdefault(name, _COLORS[len(self._styles) % len(_COLORS)])
        line = Text.assemble((f"{name:<{_PREFIX_WIDTH}} | ", style), Text.from_ansi(text))
        # As it came: neither wrapped nor read for markup.
        self._console.print(line, soft_wrap=True, highlight=False)

    def table(self, children: Iterable[Child]) -> None:
        """What runs where."""
        table = Table("name", "pid", "address", "state")
        for child in children:
            colour = "green" if child.state is ChildState.READY else "yellow"
            state = f"[{colour}]{child.state}[/]"
            service = child.service
            table.add_row(service.name, str(child.pid or "-"), escape(service.address), state)
        self._console.print(table)

    def ready(self, api_url: str, flower_url: str | None, cutout: Path) -> None:
        """The last words of a start that worked."""
        lines = [
            f"ready: {api_url}",
            f"  documentation  {api_url}/docs",
            *([f"  Flower         {flower_url}"] if flower_url else []),
            f"  sample cutout  {cutout}",
            f"  try it         curl -F image=@photo.jpg {api_url}/api/v1/remove-bg",
            "Ctrl-C ends everything.",
        ]
        self._console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)

    def fault(self, error: Exception) -> None:
        """Why it cannot go on."""
        self._console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
