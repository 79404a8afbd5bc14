"""A run of `rmbg remove`: pictures are sent, and cutouts written, several at a time."""

import asyncio
import errno
import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from deploy.removal.done_file import Done, DoneFile, digest_file, digest_parameters
from deploy.removal.selection import LeftOut, Picture, choose_target, find_pictures, shown
from rmbg_client import AsyncClient, NoAnswerError, NoCutoutError, RmbgError, ServiceError
from rmbg_client.calls import whole_file
from rmbg_client.parameters import PARAMETERS
from rmbg_client.service_errors import (
    ForbiddenError,
    HostNotTrustedError,
    InvalidParameterError,
    UnauthorizedError,
    UnknownParameterError,
)
from rmbg_client.transport import may_pass

if TYPE_CHECKING:
    from rmbg_client.parameters import Parameters

#: Fields of a submission that are options of the command.
_OPTIONS: Final = frozenset({*(each.name for each in PARAMETERS), "background_image"})
#: Errors that every other picture would meet as well.
_FOR_ALL: Final = (
    NoAnswerError,
    ForbiddenError,
    HostNotTrustedError,
    InvalidParameterError,
    UnauthorizedError,
    UnknownParameterError,
)
#: Statuses from here on say nothing of the picture.
_SERVER_FAULTS: Final = 500
#: Errors of a file system that takes nothing more.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
#: Seconds for a task's end, as long as the service keeps one waiting by default.
LIMIT_SECONDS: Final = 24 * 3600.0
#: A watched file is complete once it has not changed from one look to the next.
_LOOK_SECONDS: Final = 1.0


class StoppedError(Exception):
    """The run cannot go on; the text says why, and what to do.

    Attributes:
        mistaken: whether the command was called wrongly, so that calling it again does not help.
    """

    def __init__(self, reason: str, *, mistaken: bool = False) -> None:
        super().__init__(reason)
        self.mistaken = mistaken


def described(error: RmbgError) -> str:
    """Return what an error says, with the options that it is about."""
    fields = error.fields if isinstance(error, ServiceError) else {}
    options = ", ".join(f"--{name.replace('_', '-')}" for name in fields if name in _OPTIONS)
    return f"{options}: {error}" if options else str(error)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file.

    Attributes:
        status: `cut out`; `duplicate`: the cutout of an equal picture was copied; `done before`;
            `left out`; `failed`.
        target: the cutout's path; None if there is none.
        reason: why there is none, or what is to be known of it.
    """

    file: str
    status: str
    target: str | None = None
    reason: str = ""
    task_id: str | None = None


Report = Callable[[Outcome], None]


@dataclass(slots=True)
class Run:
    """Cuts pictures out into a folder.

    Attributes:
        client: of the service.
        done: what is cut out already.
        extension: of the cutouts.
        parameters: of the API, texts and numbers; a path is a file to be sent.
        jobs: pictures in flight at a time.
        resume: whether to skip what is done.
        report: is told what became of each file.
    """

    client: AsyncClient
    done: DoneFile
    extension: str
    parameters: Mapping[str, Any]
    jobs: int
    resume: bool
    report: Report
    _digest: str = ""
    _targets: dict[Path, Path] = field(default_factory=dict)
    #: Equal pictures wait for the first of them: by content.
    _running: dict[str, asyncio.Lock] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._digest = digest_parameters(self.parameters)
        self._targets = self.done.targets()

    @property
    def cutouts(self) -> frozenset[Path]:
        """Files that are cutouts themselves."""
        return frozenset(_absolute(target) for target in self._targets)

    async def cut_out_all(self, found: Iterable[Picture | LeftOut]) -> None:
        """Cut out what was found, `jobs` at a time.

        Raises:
            StoppedError: all others would fail alike.
        """
        waiting = iter(found)

        async def work() -> None:
            for each in waiting:
                self.report(await self._handle(each))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.jobs):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def watch(
        self,
        folders: Iterable[Path],
        seen: set[tuple[Path, tuple[int, int]]],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Cut out what arrives in folders, once it is complete, until this is canceled.

        Args:
            folders: are looked through every second.
            seen: pictures that were handled, with their versions.
            pause: waits for so many seconds.
        """
        before: set[tuple[Path, tuple[int, int]]] = set()
        while True:
            await pause(_LOOK_SECONDS)
            there = [
                each
                for each in find_pictures(folders, self.done.out, self.cutouts)
                if isinstance(each, Picture)
            ]
            now = {(each.path, each.version) for each in there}
            complete = [
                each for each in there if (each.path, each.version) in (now & before) - seen
            ]
            seen |= {(each.path, each.version) for each in complete}
            before = now
            await self.cut_out_all(complete)

    async def _handle(self, found: Picture | LeftOut) -> Outcome:
        name = shown(found.path)
        if isinstance(found, LeftOut):
            return Outcome(name, "failed" if found.named else "left out", reason=found.reason)
        try:
            content = digest_file(found.path)
        except OSError as error:
            return Outcome(name, "left out", reason=f"cannot be read: {error.strerror}")
        async with self._running.setdefault(content, asyncio.Lock()):
            try:
                return await self._cut_out(found, content)
            except _FOR_ALL as error:
                mistaken = isinstance(error, InvalidParameterError | UnknownParameterError)
                raise StoppedError(described(error), mistaken=mistaken) from error
            except (NoCutoutError, ServiceError) as error:
                return self._failed(found, content, error)
            except RmbgError as error:
                return Outcome(name, "failed", reason=str(error))
            except OSError as error:
                if error.errno in _FULL:
                    raise StoppedError(
                        f"{shown(self.done.out)} takes no more files: {error.strerror}. Make room, "
                        "or name another folder with -o."
                    ) from error
                return Outcome(name, "failed", reason=f"cannot be written: {error.strerror}")

    def _failed(
        self, picture: Picture, content: str, error: NoCutoutError | ServiceError
    ) -> Outcome:
        """Return what became of a picture that has no cutout; remember it if it stays so."""
        if isinstance(error, NoCutoutError):
            task_id, found = error.task.task_id, error.task.error
            stays = found is not None and not found.retryable
        else:
            task_id, stays = None, not may_pass(error) and error.status < _SERVER_FAULTS
        if stays:
            source = str(_absolute(picture.path))
            self.done.add(Done(source, "", content, self._digest, 0, str(error)))
        return Outcome(shown(picture.path), "failed", reason=str(error), task_id=task_id)

    async def _cut_out(self, picture: Picture, content: str) -> Outcome:
        source = str(_absolute(picture.path))
        known = self.done.by_source.get(source)
        equal = self.done.by_content.get((content, self._digest))
        if not self.resume and content not in self._made:
            equal = None
        if equal and equal.reason:
            reason = f"failed before: {equal.reason} --no-resume tries it again"
            return Outcome(shown(picture.path), "failed", reason=reason)
        if self.resume and known and self.done.is_there(known, content, self._digest):
            target = self.done.out / known.target
            return Outcome(shown(picture.path), "done before", shown(target))
        target, shortened = self._target(picture, known)
        target.parent.mkdir(parents=True, exist_ok=True)
        task_id = None
        if equal and self.done.is_there(equal, content, self._digest):
            with whole_file(target) as file, (self.done.out / equal.target).open("rb") as other:
                shutil.copyfileobj(other, file)
            status, reason = "duplicate", f"equal to {shown(equal.source)}"
        else:
            parameters = cast("Parameters", self.parameters)
            task = await self.client.cut_out(picture.path, limit=LIMIT_SECONDS, **parameters)
            await self.client.save(task, target)
            task_id, status, reason = task.task_id, "cut out", ""
        self._made.add(content)
        relative = str(target.relative_to(self.done.out))
        size = target.stat().st_size
        self.done.add(Done(source, relative, content, self._digest, size))
        if shortened:
            reason = f"{reason}; its name was too long, and is shortened".removeprefix("; ")
        return Outcome(shown(picture.path), status, shown(target), reason, task_id)

    def _target(self, picture: Picture, known: Done | None) -> tuple[Path, bool]:
        """Return the cutout's path: the one of an earlier run, or a free one."""
        source = _absolute(picture.path)
        before = self.done.out / known.target if known and known.target else None
        if (
            before is not None
            and before.suffix == f".{self.extension}"
            and self._targets.get(before, source) == source
        ):
            target, shortened = before, False
        else:
            absolute = Picture(source, picture.folder, picture.version)
            target, shortened = choose_target(
                absolute, self.done.out, self.extension, self._targets
            )
        self._targets[target] = source
        return target, shortened


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links


@dataclass(slots=True)
class Summary:
    """Counts what became of files."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count a file."""
        self.counts[outcome.status] += 1
        if outcome.status == "left out":
            self.reasons[outcome.reason] += 1

    def lines(self, out: Path) -> list[str]:
        """Return what a person is told: a line of counts, and one for each reason."""
        made = self.counts["cut out"] + self.counts["duplicate"]
        total = made + self.counts["done before"] + self.counts["failed"]
        parts = [f"{made} of {total} cut out into {shown(out)}"]
        for status, words in (
            ("duplicate", "of them copied from an equal picture"),
            ("done before", "done before"),
            ("failed", "failed"),
            ("left out", "left out"),
        ):
            if self.counts[status]:
                parts.append(f"{self.counts[status]} {words}")
        listed = [f"  {count} left out: {reason}" for reason, count in self.reasons.most_common()]
        return [", ".join(parts), *listed]

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {"summary": dict(self.counts), "left_out": dict(self.reasons)}
