"""`rmbg remove`: cut out files and whole folders through a running service."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from deploy.client import ClientError, ServiceClient, submit_batch
from inference.options import OutputFormat

#: What a folder is searched for; a file that is named is sent whatever it is called.
_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".heic"}
)

#: No service need take more at once, and the first are cut out while the next are sent.
_BATCH: Final = 25


def remove(  # noqa: PLR0917 - typer makes the options of a command from its parameters
    photos: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the cutouts.")] = Path("out"),
    url: Annotated[
        str, typer.Option(envvar="RMBG_URL", help="The service's address.")
    ] = "http://127.0.0.1:8000",
    matte_color: Annotated[
        str | None, typer.Option(help="Fill behind the subject: #rrggbb or a CSS name.")
    ] = None,
    output_format: Annotated[
        OutputFormat, typer.Option("--format", help="Format of the cutouts.")
    ] = OutputFormat.PNG,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="For webp and jpg.")] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, max=64, help="At a time.")] = 4,
    api_key: Annotated[
        str | None, typer.Option(envvar="RMBG_API_KEY", help="Key of the service.")
    ] = None,
) -> None:
    """Cut out PHOTOS and write NAME.png for each into the folder given by -o."""
    console = Console(stderr=True)
    targets = plan_cutouts(photos, out, output_format.value)
    if not targets:
        console.print("No pictures found. Name files, or a folder with pictures in it.")
        raise typer.Exit(2)
    options = _options(matte_color, output_format, quality)
    _make_folder(out, console)
    with ServiceClient(url, api_key=api_key, connections=jobs) as client:
        failures = _run(client, targets, options, jobs, console)
    console.print(f"{len(targets) - len(failures)} of {len(targets)} cut out into {out}")
    if failures:
        raise typer.Exit(1)


def plan_cutouts(photos: Iterable[Path], out: Path, extension: str) -> dict[Path, Path]:
    """Which file becomes which cutout; no two inputs share one.

    Pictures of the same name, `a.jpg` and `a.png`, keep their own extension in the cutout's name.
    """
    found = list(dict.fromkeys(_pictures(photos)))
    targets: dict[Path, Path] = {}
    taken: set[Path] = set()
    for photo in found:
        target = out / f"{photo.stem}.{extension}"
        number = 1
        while target in taken or target.resolve() == photo.resolve():
            more = f"-{number}" if number > 1 else ""
            target = out / f"{photo.stem}-{photo.suffix.lstrip('.') or 'cutout'}{more}.{extension}"
            number += 1
        taken.add(target)
        targets[photo] = target
    return targets


def _pictures(photos: Iterable[Path]) -> Iterator[Path]:
    for photo in photos:
        if photo.is_dir():
            yield from sorted(
                each
                for each in photo.rglob("*")
                if each.suffix.lower() in _SUFFIXES and each.is_file()
            )
        else:
            yield photo


def _options(matte_color: str | None, form: OutputFormat, quality: int | None) -> dict[str, str]:
    options = {"output_format": form.value}
    if matte_color:
        options["matte_color"] = matte_color
    if quality:
        options["quality"] = str(quality)
    return options


def _make_folder(out: Path, console: Console) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        console.print(f"The folder {out} cannot be made: {error.strerror}.")
        raise typer.Exit(2) from error


def _run(
    client: ServiceClient,
    targets: dict[Path, Path],
    options: dict[str, str],
    jobs: int,
    console: Console,
) -> list[Path]:
    """Send them in batches, and fetch several cutouts at a time; those that failed."""
    failures = []
    with _progress(console) as progress, ThreadPoolExecutor(jobs) as pool:
        sending = progress.add_task("sending", total=len(targets))
        bar = progress.add_task("cutting out", total=len(targets))
        running = {}
        for photos in _blocks(targets):
            for photo, item in zip(photos, _send(client, photos, options), strict=True):
                running[pool.submit(_fetch, client, item, targets[photo])] = photo
            progress.advance(sending, len(photos))
        for done in as_completed(running):
            problem = done.result()
            if problem:
                failures.append(running[done])
                line = f"{running[done]}: {problem}"
                progress.console.print(line, style="red", markup=False, soft_wrap=True)
            progress.advance(bar)
    return failures


def _blocks(photos: Iterable[Path]) -> Iterator[list[Path]]:
    left = iter(photos)
    while block := list(islice(left, _BATCH)):
        yield block


def _send(
    client: ServiceClient, photos: Sequence[Path], options: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What became of each picture: an item of a batch, with its task or the reason of its end."""
    readable = [photo for photo in photos if os.access(photo, os.R_OK)]
    try:
        found = submit_batch(client, readable, options)["items"] if readable else []
    except ClientError as error:
        found = [_refused(str(error))] * len(readable)
    items = dict(zip(readable, found, strict=True))
    return [items.get(photo) or _refused("cannot be read") for photo in photos]


def _refused(reason: str) -> dict[str, Any]:
    return {"task_id": None, "error": {"message": reason}}


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _fetch(client: ServiceClient, item: Mapping[str, Any], target: Path) -> str | None:
    """One cutout, once it is done; what went wrong, or None."""
    if item["task_id"] is None:
        return str(item["error"]["message"])
    try:
        write_atomically(target, client.result(item["task_id"]))
    except ClientError as error:
        return str(error)
    except OSError as error:
        return f"{target} cannot be written: {error.strerror}"
    return None


def write_atomically(target: Path, data: bytes) -> None:
    """Either the whole file appears under its name, or nothing does."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files that only their owner can read; a cutout is an ordinary file.
        draft.chmod(0o644)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
