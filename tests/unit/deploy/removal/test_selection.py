"""Which files are sent, which are left out and why, and the names of cutouts."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.removal.done_file import Done, DoneFile
from deploy.removal.selection import LeftOut, Picture, choose_target, find_pictures, shown

SENT = ("a.jpg", "B.JFIF", "d.mpo", "f.apng", "caf\udce9.jpg", "a:?.png")


def _cutout(of: Path, path: Path) -> None:
    """A cutout that an earlier run has put into an output folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"cutout")
    with closing(DoneFile.open(of)) as done:
        done.add(Done("/photos/a.jpg", str(path.relative_to(of)), "c", "p", size=6))


def _found(named: list[Path], out: Path) -> tuple[set[str], dict[str, str]]:
    found = list(find_pictures(named, out))
    sent = [each.path.name for each in found if isinstance(each, Picture)]
    assert len(set(sent)) == len(sent)
    left = {each.path.name: each.reason for each in found if isinstance(each, LeftOut)}
    return set(sent), left


def test_pictures_are_sent_and_all_else_is_left_out_with_its_reason(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("out", "__MACOSX", "@eaDir", "sub"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside.jpg").touch()
    for name in (*SENT, "._a.jpg", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    sent, left = _found([tmp_path, tmp_path / "a.jpg", tmp_path / "notes.txt"], out)
    assert sent == {*SENT, "inside.jpg", "notes.txt"}  # what is named is sent whatever its suffix
    system = "a file or folder of the system's own"
    assert left == {
        "._a.jpg": "hidden",
        **dict.fromkeys(("Thumbs.db", "__MACOSX", "@eaDir"), system),
        "notes.txt": "no picture, by the end of its name",
        "out": "the output folder",
        "pipe.jpg": "no regular file",
        "gone.jpg": "cannot be read: No such file or directory",
        "loop": "a folder that was searched already, by another way",
    }


def test_a_cutout_is_no_picture_of_the_next_run(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).touch()
    found = list(find_pictures([tmp_path], tmp_path, frozenset({tmp_path / "a.png"})))
    assert [type(each) for each in found] == [Picture, LeftOut]


def test_cutouts_of_runs_into_other_folders_are_no_pictures_unless_they_are_named(
    tmp_path: Path,
) -> None:
    earlier, out = tmp_path / "photos" / "earlier", tmp_path / "out"
    cutout = earlier / "trip" / "a.png"
    _cutout(earlier, cutout)
    changed = cutout.with_name("new.png")
    changed.touch()
    for named in (tmp_path / "photos", earlier, cutout.parent):
        sent, left = _found([named], out)
        assert sent == {"new.png"}
        assert left["a.png"] == "a cutout of an earlier run; name the file itself to send it"
    assert _found([cutout], out)[0] == {"a.png"}
    # What has been put in a cutout's place since is a picture.
    cutout.write_bytes(b"painted over")
    assert _found([earlier], out)[0] == {"a.png", "new.png"}


def _targets(out: Path, paths: list[Path], folder: Path = Path()) -> Iterator[str]:
    taken: dict[Path, Path] = {}
    for path in paths:
        target, _ = choose_target(Picture(path, folder, (0, 0)), out, "png", taken)
        taken[target] = path
        yield str(target.relative_to(out))


@pytest.mark.parametrize(
    ("names", "folder", "targets"),
    [
        (["a.jpg", "a.png", "b.webp"], "", ["a.png", "a-png.png", "b.png"]),
        (["one/a.jpg", "two/a.jpg", "3/a.jpg"], "", ["a.png", "a-jpg.png", "a-jpg-2.png"]),
        (["x/y/a.jpg"], "x/y", ["x/y/a.png"]),
        (["noend"], "", ["noend.png"]),
    ],
)
def test_each_picture_has_a_cutout_of_its_own(
    tmp_path: Path, names: list[str], folder: str, targets: list[str]
) -> None:
    paths = [tmp_path / "in" / each for each in names]
    assert list(_targets(tmp_path, paths, Path(folder))) == targets


def test_a_picture_is_never_replaced_by_its_cutout(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert list(_targets(tmp_path, [tmp_path / "a.png"])) == ["a-png.png"]


@pytest.mark.parametrize("stem", ["x" * 251, "ü" * 125 + "x", "\udce9" * 250])
def test_long_names_are_shortened_at_a_character_and_stay_apart(tmp_path: Path, stem: str) -> None:
    photos = [Path(f"/in/{stem}.jpg"), Path(f"/in/{stem[:-1]}y.jpg")]
    names = list(_targets(tmp_path, photos))
    assert len(set(names)) == 2
    for name in names:
        assert len(os.fsencode(name)) <= 255
        (tmp_path / name).touch()


def test_names_are_shown_without_control_characters() -> None:
    assert shown("caf\udce9\x1b[2J\n.jpg") == "caf\\xe9\\x1b[2J\\n.jpg"
