"""`rmbg remove` with the running service: a folder as people have them, run after run."""

import json
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.cli.main import app
from deploy.local.service import script
from inference.layout import Box
from inference.presets import Preset
from rmbg_client.parameters import PARAMETERS
from tasks import redis_keys
from tasks.redis_client import connect
from tests.support.pictures import picture_file, read_picture, subject_picture
from tests.support.service import RunningService, eventually

ODD_NAMES = (
    "caf\udce9.png",  # Latin-1
    "CON: \\photo?*|.PNG",  # as no Windows would have it, and many cameras do
    "Füße (1).png",
    "-o.png",
    "new\nline.png",
    "x" * 251 + ".png",
    "x" * 251 + ".jpg",  # its cutout needs a longer name
    "same.png",
    "same.dib",
)
BROKEN = ("broken.jpg", "empty.png", "cut.png")


def _photo(number: int) -> bytes:
    box = Box(2 + number % 20, 2 + number // 20, 40, 30)
    return picture_file(subject_picture((48, 32), box))


def _fill(folder: Path, count: int) -> None:
    """Make so many good pictures, with three broken ones, duplicates, and what is no picture."""
    (folder / "trip" / "@eaDir").mkdir(parents=True)
    names = [*ODD_NAMES, *(f"trip/{number}.jpg" for number in range(count - len(ODD_NAMES)))]
    for number, name in enumerate(names):
        (folder / name).write_bytes(_photo(number))
    for name in ("trip/copy.jpg", "copy.jpg"):
        (folder / name).write_bytes(_photo(0))
    whole = _photo(0)
    for name, content in zip(BROKEN, (b"no picture", b"", whole[: len(whole) // 2]), strict=True):
        (folder / name).write_bytes(content)
    for name in ("._0.jpg", ".hidden.png", "Thumbs.db", "notes.txt", "trip/@eaDir/0.jpg"):
        (folder / name).write_bytes(whole)
    (folder / "trip" / "loop").symlink_to(folder)


def _remove(service: RunningService, *arguments: object, data: bytes | None = None) -> Result:
    call = ["remove", "--url", service.url, *map(str, arguments)]
    return CliRunner().invoke(app, call, input=data)


def _manifest(result: Result) -> tuple[Counter[str], dict[str, int]]:
    *lines, last = result.stdout.splitlines()
    outcomes = [json.loads(line) for line in lines]
    counts = Counter(each["status"] for each in outcomes)
    assert json.loads(last)["summary"] == counts
    assert all(Path(each["target"]).suffix == ".png" for each in outcomes if each["target"])
    return counts, json.loads(last)["left_out"]


def _submitted(service: RunningService) -> int:
    with connect(service.env["RMBG_REDIS_URL"]) as redis:
        return int(redis.zcard(redis_keys.EXPIRIES))


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_every_good_picture_is_cut_out_once(
    service: RunningService, tmp_path: Path, count: int
) -> None:
    folder = tmp_path / "photos"
    out = folder / "out"
    folder.mkdir()
    _fill(folder, count)
    arguments = (folder, "-o", out, "--crop", "-j", "8")

    first = _remove(service, *arguments, "--json")
    counts, left_out = _manifest(first)
    assert counts == {"cut out": count, "duplicate": 2, "failed": 3, "left out": 7}, first.stderr
    assert left_out["hidden"] == 2
    assert first.exit_code == 1
    assert all(f"{name}: " in first.stderr for name in BROKEN)
    assert "its name was too long, and is shortened" in first.stderr
    cutouts = {each for each in out.rglob("*.png") if not each.name.startswith(".")}
    assert len(cutouts) == count + 2
    assert {"caf\udce9.png", "same.png", "same-png.png"} <= {each.name for each in cutouts}
    assert {each.parent for each in cutouts} == {out, out / "trip"}

    tasks = _submitted(service)
    second = _remove(service, *arguments, "--json")
    assert _manifest(second)[0] == {"done before": count + 2, "failed": 3, "left out": 7}
    assert _submitted(service) == tasks

    call = [script("rmbg"), "remove", "--url", service.url, *map(str, arguments), "--watch"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        (folder / "late.jpg").write_bytes(_photo(300))
        try:
            eventually("the late cutout", (out / "late.png").exists)
        finally:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said  # three are broken, as before
    assert f"1 of {count + 6} cut out" in said
    assert _submitted(service) == tasks + 1


def test_pipes_presets_and_every_parameter(service: RunningService, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(_photo(1))
    piped = _remove(service, "-", "--format", "webp", data=photo.read_bytes())
    assert read_picture(piped.stdout_bytes).format == "WEBP", piped.stderr
    square = _remove(service, photo, "-o", "-", "--preset", Preset.SQUARE, "--canvas", "64x64")
    assert read_picture(square.stdout_bytes).size == (64, 64)
    garbled = _remove(service, "-", data=b"no picture")
    assert (garbled.exit_code, "--image" in garbled.stderr) == (1, False), "that is no option"
    options = CliRunner().invoke(app, ["remove", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(f"--{each.name.replace('_', '-')}" in options for each in PARAMETERS)
    assert all(word not in options for word in ("zip", "auto"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("photo.png --crop-margin zz", "--crop-margin: "),
        ("photo.png --background-image words.txt", "--background-image: "),
        ("photo.png --background-image none.png", "none.png"),
        ("photo.png --api-key é", "key"),
        ("photo.png --url shop:80", "shop:80"),
        ("photo.png --watch", "--watch waits for pictures in folders"),
        ("photo.png -o cutout.png", "-o names a folder"),
        ("photo.png -o - --json", "leave --watch and --json away"),
        ("photo.png -", "A pipe takes one picture"),
        ("empty", "No pictures found"),
    ],
)
def test_a_mistake_in_the_command_says_what_to_do(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("photo.png").write_bytes(_photo(1))
    Path("words.txt").write_text("no picture")
    mistaken = _remove(service, *call.split())
    assert (mistaken.exit_code, mistaken.stdout) == (2, "")
    assert words in mistaken.stderr
    assert not re.search("Run the same command again|0 of 0", mistaken.stderr)


@pytest.mark.parametrize("source", ["-", "photo.png"])
def test_a_service_that_is_away_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(_photo(1))
    away = CliRunner().invoke(app, ["remove", source, "--url", "http://127.0.0.1:9"], input=b"x")
    assert (away.exit_code, "Is it running?" in away.stderr) == (1, True)
