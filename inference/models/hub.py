"""Fetching a checkpoint from the Hugging Face hub, or from its cache on this machine."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self

from inference.errors import ModelError
from inference.models.files import Progress
from inference.models.registry import HubFile, ModelSpec

_SITE: Final = "https://huggingface.co"
_UNAUTHORISED: Final = 401
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How the hub may be used."""

    #: Of an account that has accepted the licences of gated models.
    token: str | None = field(default=None, repr=False)
    #: Look into the cache on this machine only.
    offline: bool = False
    #: Another address than the hub's own; None leaves it to `huggingface_hub`.
    endpoint: str | None = None
    #: Folder of the cache; None leaves it to `huggingface_hub`.
    cache: Path | None = None


def fetch_from_hub(
    spec: ModelSpec, source: HubFile, folder: Path, hub: HubAccess, progress: Progress | None
) -> Path:
    """The model's file, in an empty folder; its size is checked, its hash is not.

    Raises:
        ModelError: it cannot be had; the message says what to do.
        OSError: the folder cannot be written.
    """
    library = _library(spec)
    if hub.offline:
        return _copy_from_cache(library, spec, source, folder, hub)
    with _explained(library, spec, source, hub):
        place: dict[str, Any] = {
            "repo_id": source.repo,
            "filename": source.filename,
            "local_dir": folder,
            "cache_dir": hub.cache,
            "endpoint": hub.endpoint,
            "token": hub.token or False,  # None would look for one in the user's home
        }
        found = library.hf_hub_download(**place, revision=source.revision, dry_run=True)
        if source.revision is None:
            _log.warning(
                "%s is not pinned: no commit of %s was verified. Taking today's, %s.",
                *(spec.name, source.repo, found.commit_hash),
            )
        bar = _bar_for(progress or _ignore)
        return Path(
            library.hf_hub_download(**place, revision=found.commit_hash, tqdm_class=bar),
        )


def _library(spec: ModelSpec) -> ModuleType:
    try:
        import huggingface_hub  # noqa: PLC0415 - an optional extra, and slow to import
        import huggingface_hub.errors  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        raise ModelError(
            f"Fetching {spec.name} needs {error.name}: pip install 'rmbg-queue[torch]'. Or get "
            "its file by other means, and name it by RMBG_MODEL_PATH."
        ) from error
    return huggingface_hub


def _copy_from_cache(
    library: ModuleType, spec: ModelSpec, source: HubFile, folder: Path, hub: HubAccess
) -> Path:
    cached = library.try_to_load_from_cache(
        source.repo, source.filename, cache_dir=hub.cache, revision=source.revision
    )
    if not isinstance(cached, str):
        raise ModelError(
            f"{spec.name} is not in the hub's cache on this machine, and HF_HUB_OFFLINE forbids "
            f"to ask the hub. Unset it, or {_by_hand(spec, source)}"
        )
    return Path(shutil.copyfile(cached, folder / spec.file_name))


@contextmanager
def _explained(
    library: ModuleType, spec: ModelSpec, source: HubFile, hub: HubAccess
) -> Iterator[None]:
    """Turns what the library raises into what a person can do about it."""
    errors = library.errors
    page = f"{_SITE}/{source.repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(_gated(spec, page, error.response.status_code, hub)) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub shows no {page} to us: check that HF_TOKEN, if set, is valid. If the model "
            f"has moved, {_by_hand(spec, source)}"
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(spec, source, error.__cause__ or error) from error
        commit = f" at the commit {source.revision}" if source.revision else ""
        raise ModelError(
            f"{page} holds no {source.filename}{commit}. If it has moved, {_by_hand(spec, source)}"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise  # of this machine: a full disk, a folder that may not be written
        raise _unreachable(spec, source, error) from error
    except Exception as error:  # its HTTP and Xet libraries share no public root
        raise _unreachable(spec, source, error) from error


def _gated(spec: ModelSpec, page: str, status: int, hub: HubAccess) -> str:
    accept = f"sign in at {page} and accept the licence ({spec.licence})"
    if hub.token is None:
        return (
            f"{spec.name} is gated, and HF_TOKEN is not set: {accept}, make a token that may read "
            f"gated repositories at {_SITE}/settings/tokens, and set HF_TOKEN to it."
        )
    if status == _UNAUTHORISED:
        return (
            f"{spec.name} is gated, and the hub does not know the token in HF_TOKEN: make another "
            f"at {_SITE}/settings/tokens."
        )
    return (
        f"{spec.name} is gated, and the account of HF_TOKEN may not read it: {accept} with that "
        "account, and let the token read gated repositories."
    )


def _unreachable(spec: ModelSpec, source: HubFile, error: BaseException) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ModelError(
        f"{spec.name} could not be fetched from the hub: {reason}. Check the network and its "
        f"proxy, and try again; or {_by_hand(spec, source)}"
    )


def _by_hand(spec: ModelSpec, source: HubFile) -> str:
    return (
        f"get {source.filename} of {_SITE}/{source.repo} by other means, and lay it into the "
        f"model folder as {spec.file_name} or name it by RMBG_MODEL_PATH."
    )


def _ignore(done: int, total: int | None) -> None:
    """Whoever asked for no progress gets none, nor the library's own bar."""


def _bar_for(report: Progress) -> type:
    """What the library takes for a bar of tqdm's, and makes one of for a download."""

    class Bar:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.total = total
            self.n = initial

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: int = 1) -> None:
            self.n += n
            report(self.n, self.total)

    return Bar
