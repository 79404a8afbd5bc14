"""`rmbg remove`: cut out files and folders of pictures with a running service."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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

from deploy.cli.output import say
from deploy.client import ClientError, ServiceClient, submit_batch
from inference.options import OutputFormat
from inference.presets import PRESETS, Preset

#: The files of a folder that are sent. A file that is named itself is sent with any suffix.
_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".heic"}
)

#: Pictures of a batch: few, so that the first are cut out while the next are sent.
_BATCH_SIZE: Final = 25


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
        OutputFormat | None,
        typer.Option("--format", help="Format of the cutouts; png, unless a preset has another."),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="Parameters for a purpose; other options go before them."),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="For webp, avif and jpg.")
    ] = None,
    mask_threshold: Annotated[
        int | None, typer.Option(min=1, max=100, help="Harden the edge at so many percent.")
    ] = None,
    mask_offset: Annotated[
        int, typer.Option(min=-100, max=100, help="Move the edge by pixels; negative: inwards.")
    ] = 0,
    mask_feather: Annotated[
        int, typer.Option(min=0, max=100, help="Fade the edge within so many pixels.")
    ] = 0,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, max=64, help="Cutouts to fetch at a time.")
    ] = 4,
    api_key: Annotated[
        str | None, typer.Option(envvar="RMBG_API_KEY", help="Your API key of the service.")
    ] = None,
) -> None:
    """Cut out PHOTOS, and write NAME.png for each into the folder given by -o."""
    chosen = PRESETS[preset] if preset else {}
    extension = output_format.value if output_format else str(chosen.get("output_format", "png"))
    targets = plan_cutouts(photos, out, extension)
    if not targets:
        say("No pictures found. Name files, or a folder with pictures in it.")
        raise typer.Exit(2)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        say(f"The folder {out} cannot be created: {error.strerror}. Choose another with -o.")
        raise typer.Exit(2) from error
    given = {
        "matte_color": matte_color,
        "quality": quality,
        "mask_threshold": mask_threshold,
        "mask_offset": mask_offset,
        "mask_feather": mask_feather,
    }
    options = {name: str(value) for name, value in chosen.items()}
    options |= {name: str(value) for name, value in given.items() if value}
    options["output_format"] = extension
    with ServiceClient(url, api_key=api_key, connections=jobs) as client:
        failures = _cut_out_all(client, targets, options, jobs)
    say(f"{len(targets) - failures} of {len(targets)} cut out into {out}")
    if failures:
        raise typer.Exit(1)


def plan_cutouts(photos: Iterable[Path], out: Path, extension: str) -> dict[Path, Path]:
    """Return the cutout's path for each picture; all differ, and none is a picture's own path.

    Pictures with equal stems, such as `a.jpg` and `a.png`, keep their suffix in the cutout's name.
    """
    targets: dict[Path, Path] = {}
    taken: set[Path] = set()
    for photo in dict.fromkeys(_find_pictures(photos)):
        target = out / f"{photo.stem}.{extension}"
        number = 1
        while target in taken or target.resolve() == photo.resolve():
            suffix = f"-{number}" if number > 1 else ""
            kind = photo.suffix.lstrip(".") or "cutout"
            target = out / f"{photo.stem}-{kind}{suffix}.{extension}"
            number += 1
        taken.add(target)
        targets[photo] = target
    return targets


def _find_pictures(photos: Iterable[Path]) -> Iterator[Path]:
    for photo in photos:
        if photo.is_dir():
            yield from sorted(
                each
                for each in photo.rglob("*")
                if each.suffix.lower() in _SUFFIXES and each.is_file()
            )
        else:
            yield photo


def _cut_out_all(
    client: ServiceClient, targets: Mapping[Path, Path], options: Mapping[str, str], jobs: int
) -> int:
    """Send the pictures in batches, fetch `jobs` cutouts at a time; return how many failed."""
    failures = 0
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    pictures = list(targets)
    with bars as progress, ThreadPoolExecutor(jobs) as pool:
        sending = progress.add_task("sending", total=len(targets))
        cutting_out = progress.add_task("cutting out", total=len(targets))
        fetches = {}
        for start in range(0, len(pictures), _BATCH_SIZE):
            photos = pictures[start : start + _BATCH_SIZE]
            for photo, item in zip(photos, _send(client, photos, options), strict=True):
                fetches[pool.submit(_fetch, client, item, targets[photo])] = photo
            progress.advance(sending, len(photos))
        for fetch in as_completed(fetches):
            problem = fetch.result()
            if problem:
                failures += 1
                line = f"{fetches[fetch]}: {problem}"
                progress.console.print(line, style="red", markup=False, soft_wrap=True)
            progress.advance(cutting_out)
    return failures


def _send(
    client: ServiceClient, photos: Sequence[Path], options: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return a batch item for each picture, which holds its task's id or an error."""
    readable = [photo for photo in photos if os.access(photo, os.R_OK)]
    try:
        found = submit_batch(client, readable, options)["items"] if readable else []
    except ClientError as error:
        found = [_refused_item(str(error))] * len(readable)
    items = dict(zip(readable, found, strict=True))
    return [items.get(photo) or _refused_item("cannot be read") for photo in photos]


def _refused_item(reason: str) -> dict[str, Any]:
    return {"task_id": None, "error": {"message": reason}}


def _fetch(client: ServiceClient, item: Mapping[str, Any], target: Path) -> str | None:
    """Wait for a cutout and write it to its file; return what went wrong, or None."""
    if item["task_id"] is None:
        return str(item["error"]["message"])
    try:
        _write_atomically(target, client.result(item["task_id"]))
    except ClientError as error:
        return str(error)
    except OSError as error:
        return f"{target} cannot be written: {error.strerror}"
    return None


def _write_atomically(target: Path, data: bytes) -> None:
    """Write a file so that it appears under its name complete, or not at all."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp creates files that only their owner can read; a cutout is an ordinary file.
        draft.chmod(0o644)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
