"""`rmbg remove`: which pictures are sent, and the names of their cutouts."""

from pathlib import Path

from deploy.cli.remove import plan_cutouts


def test_each_picture_of_a_folder_has_a_cutout_of_its_own(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.webp", "notes.txt"):
        (tmp_path / name).touch()
    targets = plan_cutouts([tmp_path, tmp_path / "a.jpg"], tmp_path / "out", "png")
    names = {photo.name: target.name for photo, target in targets.items()}
    assert names == {"a.jpg": "a.png", "a.png": "a-png.png", "b.webp": "b.png"}


def test_equal_names_of_two_folders_are_numbered(tmp_path: Path) -> None:
    photos = [tmp_path / folder / "a.jpg" for folder in ("one", "two", "three")]
    targets = plan_cutouts(photos, tmp_path / "out", "png")
    assert [target.name for target in targets.values()] == ["a.png", "a-jpg.png", "a-jpg-2.png"]


def test_a_picture_is_never_replaced_by_its_cutout(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    assert plan_cutouts([photo], tmp_path, "png") == {photo: tmp_path / "a-png.png"}
