"""A run of `rmbg remove` without a service: what is done is skipped, and faults end well."""

import asyncio
import errno
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.removal.done_file import DONE_FILE, DoneFile, FolderInUseError
from deploy.removal.run import Outcome, Run, StoppedError
from deploy.removal.selection import find_pictures
from rmbg_client.calls import whole_file
from rmbg_client.errors import NoAnswerError
from rmbg_client.service_errors import InvalidImageError, InvalidParameterError, QueueFullError


class FakeClient:
    """Cuts out what does not say otherwise: its content is the cutout."""

    def __init__(self, faults: dict[bytes, Exception] | None = None) -> None:
        self.sent: list[Path] = []
        self.faults = faults or {}
        self.interrupted_at = b""
        self.main: asyncio.Task[None] | None = None

    async def cut_out(self, picture: Path, **_: object) -> SimpleNamespace:
        self.sent.append(picture)
        await asyncio.sleep(0)
        content = _content(picture)
        if fault := self.faults.get(content):
            raise fault
        return SimpleNamespace(task_id="rm-1", content=content)

    async def save(self, task: SimpleNamespace, target: Path) -> None:
        with whole_file(target) as file:
            file.write(task.content)
            if task.content == self.interrupted_at and self.main is not None:
                self.main.cancel()
            await asyncio.sleep(0)
            if fault := self.faults.get(b"save:" + task.content):
                raise fault


def _content(picture: Path) -> bytes:
    return picture.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.jpg").write_text(name)
    return tmp_path


Cut = Callable[..., list[Outcome]]


@pytest.fixture
def cut(folder: Path) -> Iterator[Cut]:
    def run(client: FakeClient, *, resume: bool = True, **parameters: object) -> list[Outcome]:
        outcomes: list[Outcome] = []
        fake: Any = client

        async def cut_out_all(done: DoneFile) -> None:
            client.main = asyncio.current_task()
            job = Run(fake, done, "png", parameters, 2, resume, outcomes.append)
            await job.cut_out_all(list(find_pictures([folder / "in"], done.out, job.cutouts)))

        with closing(DoneFile.open(folder / "out")) as done:
            asyncio.run(cut_out_all(done))
        return outcomes

    yield run
    assert list((folder / "out").rglob("*.part")) == []


def _statuses(outcomes: list[Outcome]) -> dict[str, str]:
    return {Path(each.file).name: each.status for each in outcomes}


def test_what_is_done_is_skipped_by_content_and_parameters(cut: Cut, folder: Path) -> None:
    names = ("a.jpg", "b.jpg", "c.jpg")
    assert _statuses(cut(FakeClient())) == dict.fromkeys(names, "cut out")
    (folder / "in" / "a.jpg").touch()
    assert _statuses(cut(FakeClient(), priority="high")) == dict.fromkeys(names, "done before")
    (folder / "in" / "a.jpg").write_text("other")
    (folder / "out" / "b.png").unlink()
    client = FakeClient()
    again = _statuses(cut(client))
    assert again == {"a.jpg": "cut out", "b.jpg": "cut out", "c.jpg": "done before"}
    assert (folder / "out" / "a.png").read_text() == "other"
    assert set(_statuses(cut(client, crop=True)).values()) == {"cut out"}
    assert set(_statuses(cut(client, crop=True, resume=False)).values()) == {"cut out"}
    assert sorted(each.name for each in (folder / "out").iterdir()) == [
        DONE_FILE,
        *("a.png", "b.png", "c.png"),
    ]


def test_a_cutout_is_never_replaced_by_another_pictures(cut: Cut, folder: Path) -> None:
    cut(FakeClient())
    (folder / "out" / "a.png").unlink()
    (folder / "in" / "a.bmp").write_text("earlier in the alphabet")
    cut(FakeClient())
    cutouts = {each.name: each.read_text() for each in (folder / "out").glob("a*.png")}
    assert sorted(cutouts.values()) == ["a", "earlier in the alphabet"]


def test_what_can_never_be_cut_out_is_not_sent_again(cut: Cut) -> None:
    faults: dict[bytes, Exception] = {
        b"a": InvalidImageError("broken", status=422),
        b"b": QueueFullError("busy", status=503),
    }
    assert _statuses(cut(FakeClient(faults)))["a.jpg"] == "failed"
    client = FakeClient()
    outcomes = cut(client)
    assert [each.name for each in client.sent] == ["b.jpg"]
    assert _statuses(outcomes) == {"a.jpg": "failed", "b.jpg": "cut out", "c.jpg": "done before"}
    assert any("--no-resume" in each.reason for each in outcomes)
    assert set(_statuses(cut(client, resume=False)).values()) == {"cut out"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (NoAnswerError("no answer"), "no answer"),
        (InvalidParameterError("quality", status=422), "quality"),
        (OSError(errno.ENOSPC, "No space left on device"), "Make room"),
    ],
)
def test_what_all_others_would_meet_stops_the_run(
    cut: Cut, folder: Path, fault: Exception, words: str
) -> None:
    where = b"save:a" if isinstance(fault, OSError) else b"a"
    with pytest.raises(StoppedError, match=words):
        cut(FakeClient({where: fault}))
    assert not (folder / "out" / "a.png").exists()
    assert set(_statuses(cut(FakeClient())).values()) <= {"cut out", "done before"}


def test_an_interrupted_run_leaves_no_half_file_and_goes_on(cut: Cut, folder: Path) -> None:
    client = FakeClient()
    client.interrupted_at = b"c"
    with pytest.raises(asyncio.CancelledError):
        cut(client)
    made = {each.name for each in (folder / "out").glob("*.png")}
    assert "c.png" not in made
    (folder / "out" / ".rmbg-0.part").touch()  # of a run that was killed
    with (folder / "out" / DONE_FILE).open("a") as file:
        file.write('{"source": "/half')
    statuses = _statuses(cut(FakeClient()))
    assert statuses["c.jpg"] == "cut out"
    for line in (folder / "out" / DONE_FILE).read_text().splitlines()[-1:]:
        json.loads(line)


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    with closing(DoneFile.open(tmp_path)), pytest.raises(FolderInUseError):
        DoneFile.open(tmp_path)
    DoneFile.open(tmp_path).close()


def test_a_watched_file_is_sent_once_it_is_complete(folder: Path) -> None:
    client: Any = FakeClient()
    # Sizes differ: by their time alone, a file system may not tell two changes within 10 ms apart.
    steps = iter(["", "half and more", "", "", "whole, as it is at last", "", "", "end"])
    arriving = folder / "in" / "new.jpg"
    arriving.write_text("half")
    sent_at: list[int] = []

    async def pause(_: float) -> None:
        sent_at.append(len(client.sent))
        step = next(steps)
        if step == "end":
            raise asyncio.CancelledError
        if step:
            arriving.write_text(step)

    with closing(DoneFile.open(folder / "out")) as done:
        run = Run(client, done, "png", {}, 2, True, lambda _: None)
        found = [each for each in find_pictures([folder / "in"], done.out) if each.path != arriving]
        seen = {(each.path, each.version) for each in found}  # type: ignore[union-attr]
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run.watch([folder / "in"], seen, pause))
    assert sent_at == [0, 0, 0, 1, 1, 1, 2, 2]
    assert (folder / "out" / "new.png").read_text() == "whole, as it is at last"
