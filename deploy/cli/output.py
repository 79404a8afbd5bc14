"""How commands print sentences for people, and how they end when something fails.

Standard output holds what a command was asked for. Everything else goes to standard error.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from inference.errors import InferenceError
from tasks.errors import TaskError


def say(sentence: str) -> None:
    """Print a sentence on standard error as it is, neither wrapped nor read for markup."""
    console = Console(stderr=True, emoji=False)
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def exit_on_error(*, as_json: bool = False, hint: str = "") -> Iterator[None]:
    """End the command with status 1 on one of our errors, and print its message.

    Args:
        as_json: print the error as a JSON document on standard output.
        hint: a sentence to add to the message.
    """
    try:
        yield
    except (TaskError, InferenceError) as error:
        message = f"{error} {hint}".rstrip()
        if as_json:
            typer.echo(json.dumps({"error": {"type": error.code, "message": message}}))
        else:
            say(message)
        raise typer.Exit(1) from error


@contextmanager
def require_torch() -> Iterator[None]:
    """End the command with status 1 if an import fails for lack of torch, and say what to install.

    torch and numpy are extras, and the command line starts without them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "safetensors", "numpy"}:
            raise
        say(f"This needs {error.name}: pip install 'rmbg-queue[torch]'")
        raise typer.Exit(1) from error
