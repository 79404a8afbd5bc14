"""`rmbg mcp`: an MCP server on standard input and output, for agents."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.output import say
from rmbg_client import AsyncClient


def mcp(
    folder: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A folder that the agent may read pictures from and write cutouts to, with all "
            "below it; more than once for several. The working folder, unless named.",
        ),
    ] = None,
    url: Annotated[
        str, typer.Option(envvar="RMBG_URL", help="The service's address.")
    ] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="RMBG_API_KEY", help="Your API key of the service."),
    ] = None,
) -> None:
    """Serve tools for agents by MCP on standard input and output: cut out pictures, ask for tasks.

    Only files below the allowed folders are read and written.
    """
    try:
        # Only this command needs the library, whose import takes a second.
        from deploy.mcp_server import RETRIES, Folders, build_server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"mcp", "mcp_types", "anyio"}:
            raise
        say("This needs the library of MCP: pip install 'rmbg-queue[mcp]'")
        raise typer.Exit(1) from error
    client = AsyncClient(url, api_key=api_key, retries=RETRIES)
    build_server(client, Folders.of(folder or [Path.cwd()])).run()
