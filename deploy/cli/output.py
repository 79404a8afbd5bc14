"""How commands print messages and errors for people, or one JSON document for programs."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console


@contextmanager
def require_torch() -> Iterator[None]:
    """Turns a failed import of torch into a line that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "safetensors", "numpy"}:
            raise
        message = f"This needs {error.name}: pip install 'rmbg-queue[torch]'"
        Console(stderr=True).print(message, markup=False)
        raise typer.Exit(1) from error
