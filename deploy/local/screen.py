"""The output of `rmbg up`: a table of all processes, then the lines of each behind its name."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.local.supervisor import Child, ChildState

_COLORS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")
_NAME_WIDTH: Final = 7


class Screen:
    """Prints to one console, in colour if it is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._styles: dict[str, str] = {"rmbg": "bold"}

    @property
    def is_terminal(self) -> bool:
        """Whether the output goes to a terminal."""
        return self._console.is_terminal

    def line(self, name: str, text: str) -> None:
        """Print one line of a process behind its name, neither wrapped nor read for markup."""
        style = self._styles.setdefault(name, _COLORS[len(self._styles) % len(_COLORS)])
        line = Text.assemble((f"{name:<{_NAME_WIDTH}} | ", style), Text.from_ansi(text))
        self._console.print(line, soft_wrap=True, highlight=False)

    def table(self, children: Iterable[Child]) -> None:
        """Print name, process id, address and state of each process."""
        table = Table("name", "pid", "address", "state")
        for child in children:
            color = "green" if child.state is ChildState.READY else "yellow"
            state = f"[{color}]{child.state}[/]"
            service = child.service
            table.add_row(service.name, str(child.pid or "-"), escape(service.address), state)
        self._console.print(table)

    def ready(self, api_url: str, flower_url: str | None, cutout: Path) -> None:
        """Print the addresses, once all processes are ready and the self-check has passed."""
        lines = [
            f"ready: {api_url}",
            f"  documentation  {api_url}/docs",
            *([f"  Flower         {flower_url}"] if flower_url else []),
            f"  sample cutout  {cutout}",
            f"  try it         curl -F image=@photo.jpg {api_url}/api/v1/remove-bg",
            "Press Ctrl-C to stop all processes.",
        ]
        self._console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)

    def error(self, error: Exception) -> None:
        """Print why the service cannot run."""
        self._console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
