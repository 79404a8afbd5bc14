"""Prints what was measured."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table on standard output."""
    shown = Table(*head, title=title)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
