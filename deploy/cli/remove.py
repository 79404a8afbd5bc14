"""`rmbg remove`: cut out files and folders of pictures with a running service."""

import asyncio
import inspect
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.cli.output import say
from deploy.removal.done_file import DoneFile, FolderInUseError
from deploy.removal.run import LIMIT_SECONDS, Outcome, Run, StoppedError, Summary, described
from deploy.removal.selection import (
    PICTURE_SUFFIXES,
    Picture,
    find_pictures,
    is_folder,
    shown,
)
from inference.presets import PRESETS, Preset
from rmbg_client import AsyncClient, Bytes, Client, RetryPolicy, RmbgError
from rmbg_client.parameters import PARAMETERS, Parameter, Parameters
from rmbg_client.pictures import readable_name
from rmbg_client.service_errors import InvalidParameterError, UnknownParameterError

#: Standard input or output in place of a file.
_PIPE: Final = Path("-")
#: A long run waits for a service that is restarted, or that asks for patience.
_PATIENT: Final = RetryPolicy(attempts=12, longest_pause=60)
#: Whether there is a service at all is told soon.
_QUICK: Final = RetryPolicy(attempts=2)
_INTERRUPTED: Final = 130
_TYPES: Final[Mapping[str, type]] = {"boolean": bool, "integer": int, "number": float}


def _option(parameter: Parameter) -> inspect.Parameter:
    """Return the command's option for a parameter of the API; unset, the service decides."""
    kind: Any = _choices(parameter) if parameter.choices else _TYPES.get(parameter.type, str)
    flag = parameter.name.replace("_", "-")
    names = [f"--{flag}/--no-{flag}"] if kind is bool else [f"--{flag}"]
    if parameter.name == "output_format":
        names = ["--format", *names]
    about = typer.Option(
        *names,
        min=cast("Any", parameter.minimum),
        max=cast("Any", parameter.maximum),
        help=parameter.description,
        show_default=False,
    )
    annotation = Annotated[kind | None, about]
    return inspect.Parameter(
        parameter.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _choices(parameter: Parameter) -> type[Enum]:
    members = {each: each for each in parameter.choices}
    return cast("type[Enum]", Enum(parameter.name, members))


def _with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each parameter of the API, which come as `given`."""
    own = inspect.signature(command)
    options = [_option(each) for each in PARAMETERS]
    kept = [each for each in own.parameters.values() if each.name != "given"]
    names = [each.name for each in options]

    def called(**values: Any) -> None:  # noqa: ANN401 - as typer passes them
        given = {name: values.pop(name) for name in names}
        command(
            **values,
            given={
                name: value.value if isinstance(value, Enum) else value
                for name, value in given.items()
                if value is not None
            },
        )

    positional = [each for each in kept if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [each for each in kept if each.kind is inspect.Parameter.KEYWORD_ONLY]
    called.__signature__ = own.replace(parameters=[*positional, *keywords, *options])  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in (*kept, *options)}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called


@_with_parameters
def remove(
    photos: Annotated[
        list[Path],
        # One that cannot be read is a failed picture among others, as one that is missing.
        typer.Argument(readable=False, help="Pictures, folders of them, or - for standard input."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the cutouts, out by default; - for a pipe."),
    ] = None,
    url: Annotated[
        str, typer.Option(envvar="RMBG_URL", help="The service's address.")
    ] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="RMBG_API_KEY", help="Your API key of the service.")
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="Parameters for a purpose; other options go before them."),
    ] = None,
    background_image: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="A picture that goes behind the subject, and fills.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, max=64, help="Pictures in flight at a time.")
    ] = 4,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with pictures that arrive, until Ctrl-C.")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Skip what an earlier run has cut out, by content.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each file, and the summary.")
    ] = False,
    given: Mapping[str, Any],
) -> None:
    """Cut out PHOTOS, and write NAME.png for each into the folder given by -o.

    Folders keep their structure. What an earlier run has cut out is skipped.
    """
    parameters = {**(PRESETS[preset] if preset else {}), **given}
    parameters.setdefault("output_format", "png")
    if background_image is not None:
        parameters["background_image"] = background_image
    _check_call(photos, out, watch=watch, as_json=as_json)
    clients = _make_clients(url, api_key)
    if _PIPE in photos or out == _PIPE:
        _cut_out_pipe(photos, out, clients, parameters)
        return
    if watch or len(photos) > 1 or is_folder(photos[0]):
        parameters.setdefault("priority", "low")  # others need not wait for a folder
    screen = _Screen(as_json=as_json)
    folder = out or Path("out")
    status = 0
    try:
        with closing(_open_folder(folder)) as done, screen.bars:
            order = _Order(photos, url, api_key, parameters, jobs=jobs, watch=watch, resume=resume)
            asyncio.run(_cut_out_folders(order, done, screen))
    except StoppedError as error:
        status = _say_stopped(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        if not watch:
            say("Interrupted. Run the same command again to go on.")
            status = _INTERRUPTED
    if not (set(screen.summary.counts) - {"left out"} or status or watch):
        say("No pictures found. Name files, or a folder with pictures in it.")
        status = 2
    for line in screen.summary.lines(folder) if screen.summary.counts else ():
        say(line)
    if as_json:
        typer.echo(json.dumps(screen.summary.as_json()))
    raise typer.Exit(status or (1 if screen.summary.counts["failed"] else 0))


def _check_call(photos: Sequence[Path], out: Path | None, *, watch: bool, as_json: bool) -> None:
    """End the command, with what is right instead, if its arguments contradict each other."""
    piped = _PIPE in photos or out == _PIPE
    if piped and (watch or as_json):
        say("A pipe carries one cutout and nothing else: leave --watch and --json away.")
    elif watch and not any(map(is_folder, photos)):
        say("--watch waits for pictures in folders: name one that is there.")
    elif out and out.suffix.lower() in PICTURE_SUFFIXES and not is_folder(out):
        say(
            f"-o names a folder, not a file such as {shown(out)}. For a single cutout: "
            "rmbg remove PHOTO -o - > cutout.png"
        )
    else:
        return
    raise typer.Exit(2)


def _make_clients(url: str, api_key: str | None) -> tuple[Client, Client]:
    """Return one that gives up soon and one that is patient; end the command on a wrong address."""
    try:
        return (
            Client(url, api_key=api_key, retries=_QUICK),
            Client(url, api_key=api_key, retries=_PATIENT),
        )
    except ValueError as error:
        say(str(error))
        raise typer.Exit(2) from error


def _say_stopped(error: StoppedError) -> int:
    """Say why the run cannot go on, and return the status to exit with."""
    say(f"Stopped: {error}" + ("" if error.mistaken else " Run the same command again to go on."))
    return 2 if error.mistaken else 1


@dataclass(frozen=True, slots=True)
class _Order:
    """What the command was asked for."""

    photos: Sequence[Path]
    url: str
    api_key: str | None
    parameters: Mapping[str, Any]
    _: KW_ONLY
    jobs: int
    watch: bool
    resume: bool


class _Screen:
    """Shows what becomes of files, and counts it."""

    def __init__(self, *, as_json: bool) -> None:
        self.summary = Summary()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._as_json = as_json
        self._bar = self.bars.add_task("cutting out", total=0)

    def expect(self, pictures: int) -> None:
        """Raise the number of pictures to cut out."""
        self.bars.update(self._bar, total=(self.bars.tasks[0].total or 0) + pictures)

    def report(self, outcome: Outcome) -> None:
        """Show what became of a file."""
        self.summary.add(outcome)
        if outcome.status != "left out":
            self.bars.advance(self._bar)
        if self._as_json:
            typer.echo(json.dumps(asdict(outcome)))
        unreadable = outcome.status == "left out" and outcome.reason.startswith("cannot be read")
        shortened = outcome.status == "cut out" and outcome.reason
        if outcome.status == "failed" or unreadable or shortened:
            line = f"{outcome.file}: {outcome.reason}"
            self.bars.console.print(line, style="red", markup=False, soft_wrap=True)


def _open_folder(folder: Path) -> DoneFile:
    """Make the output folder, and keep it to this run; else end the command."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return DoneFile.open(folder)
    except FolderInUseError as error:
        say(str(error))
    except OSError as error:
        say(f"{shown(folder)} cannot be written: {error.strerror}. Choose another with -o.")
    raise typer.Exit(2)


async def _cut_out_folders(order: _Order, done: DoneFile, screen: _Screen) -> None:
    """Cut out what is there, and with `watch` what arrives.

    Raises:
        StoppedError: all others would fail alike.
    """
    main = asyncio.current_task()
    for each in (signal.SIGINT, signal.SIGTERM):
        # What is being written is removed, whichever way the command is told to end.
        asyncio.get_running_loop().add_signal_handler(each, cast("asyncio.Task[None]", main).cancel)
    extension = str(order.parameters["output_format"])
    async with AsyncClient(order.url, api_key=order.api_key, retries=_PATIENT) as client:
        run = Run(
            client, done, extension, order.parameters, order.jobs, order.resume, screen.report
        )
        found = list(find_pictures(order.photos, done.out, run.cutouts))
        pictures = [each for each in found if isinstance(each, Picture)]
        screen.expect(sum(isinstance(each, Picture) or each.named for each in found))
        if pictures:
            await _greet(order)
        await run.cut_out_all(found)
        if order.watch:
            folders = [each for each in order.photos if is_folder(each)]
            seen = {(each.path, each.version) for each in pictures}
            await run.watch(folders, seen)


async def _greet(order: _Order) -> None:
    """Raise `StoppedError` at once if there is no service."""
    async with AsyncClient(order.url, api_key=order.api_key, retries=_QUICK) as client:
        try:
            await client.info()
        except RmbgError as error:
            raise StoppedError(str(error)) from error


def _cut_out_pipe(
    photos: Sequence[Path],
    out: Path | None,
    clients: tuple[Client, Client],
    parameters: Mapping[str, Any],
) -> None:
    """Cut one picture out, from standard input or a file, to standard output.

    Of the clients, the first one gives up soon: it finds out whether there is a service at all.
    """
    if len(photos) != 1 or out not in {None, _PIPE}:
        say("A pipe takes one picture, and its cutout goes to standard output: leave -o away.")
        raise typer.Exit(2)
    if sys.stdout.isatty():
        say("The cutout would go to the screen; write it to a file: rmbg remove - > cutout.png")
        raise typer.Exit(2)
    try:
        content = sys.stdin.buffer.read() if photos[0] == _PIPE else photos[0].read_bytes()
        with clients[0] as quick, clients[1] as patient:
            quick.info()
            picture = Bytes(content, readable_name(photos[0].name))
            cutout = patient.remove(
                picture, limit=LIMIT_SECONDS, **cast("Parameters", dict(parameters))
            )
    except RmbgError as error:
        say(f"{shown(photos[0])}: {described(error)}")
        mistaken = isinstance(error, InvalidParameterError | UnknownParameterError)
        raise typer.Exit(2 if mistaken else 1) from error
    except OSError as error:
        say(f"{shown(photos[0])} cannot be read: {error.strerror}.")
        raise typer.Exit(1) from error
    try:
        sys.stdout.buffer.write(cutout)
        sys.stdout.buffer.flush()
    except OSError as error:
        say(f"The cutout cannot be written: {error.strerror}.")
        raise typer.Exit(1) from error
