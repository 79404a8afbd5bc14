"""Fetching from a hub on loopback, and everything that can go wrong with it."""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest

from inference.errors import CheckpointError, ModelError
from inference.models.registry import HubFile, ModelSpec, get_spec
from inference.models.weights import fetch_model
from tests.support.models import spec_of
from tests.support.serving import Request, answer, serving

_COMMIT = "a" * 40
_TOKEN = "hf_accepted"
#: Tries to fetch the model, and returns the reason why that fails.
Refusal = Callable[[], str]


def _checkpoint() -> bytes:
    header = {"weight": {"dtype": "F32", "shape": [1_000], "data_offsets": [0, 4_000]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4_000)


@dataclass
class Hub:
    """What the server shows, and what it was asked."""

    body: bytes = field(default_factory=_checkpoint)
    #: Status and X-Error-Code of every answer, where it is to refuse.
    refusal: tuple[int, str] | None = None
    gated: bool = False
    #: Bytes that are left out at the end.
    cut: int = 0
    asked: list[str] = field(default_factory=list)

    def refuses(self, authorization: str | None) -> tuple[int, str] | None:
        if self.gated and authorization != f"Bearer {_TOKEN}":
            return (403 if authorization == "Bearer hf_other" else 401), "GatedRepo"
        return self.refusal


@pytest.fixture(autouse=True)
def _settings_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `HF_HOME` would set; the library reads its variables once, on import."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def _use_endpoint(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    shown = Hub()

    def handle(request: Request) -> None:
        shown.asked.append(f"{request.command} {request.path}")
        refusal = shown.refuses(request.headers["Authorization"])
        status, code = refusal or (200, "")
        headers = {"X-Error-Code": code} if code else {}
        headers |= {"X-Repo-Commit": _COMMIT, "ETag": f'"{hashlib.sha256(shown.body).hexdigest()}"'}
        cut = shown.cut if request.command == "GET" else 0
        body = b"" if refusal else shown.body[: len(shown.body) - cut]
        answer(status, body, **headers)(request)

    with serving(handle) as port:
        _use_endpoint(monkeypatch, f"http://127.0.0.1:{port}")
        yield shown


@pytest.fixture
def spec(hub: Hub) -> ModelSpec:
    return spec_of("rmbg-2.0", hub.body, source=HubFile("briaai/RMBG-2.0", revision=_COMMIT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def refusal(spec: ModelSpec, folder: Path) -> Refusal:
    def fetch() -> str:
        with pytest.raises(ModelError) as caught:
            fetch_model(spec, folder)
        assert not folder.exists() or not list(folder.iterdir()), "nothing is left behind"
        return str(caught.value)

    return fetch


def test_a_pinned_file_is_fetched_checked_and_its_progress_reported(
    hub: Hub, spec: ModelSpec, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reports: list[tuple[int, int | None]] = []
    path = fetch_model(spec, folder, progress=lambda *at: reports.append(at))
    assert path.read_bytes() == hub.body
    assert [each.name for each in folder.iterdir()] == ["rmbg-2.0.safetensors"]
    assert reports[-1] == (len(hub.body), len(hub.body))
    assert reports == sorted(reports)
    assert f"GET /briaai/RMBG-2.0/resolve/{_COMMIT}/model.safetensors" in hub.asked
    assert "pinned" not in caplog.text
    hub.asked.clear()
    assert fetch_model(spec, folder) == path
    assert not hub.asked


def test_what_is_not_pinned_is_said_so_with_what_was_taken(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch_model(get_spec("birefnet-hr"), folder)
    assert f"no commit of ZhengPeng7/BiRefNet_HR was verified. Taking the newest, {_COMMIT}" in (
        caplog.text
    )
    assert hashlib.sha256(hub.body).hexdigest() in caplog.text
    # What was resolved first is what is downloaded, whatever is pushed in between.
    assert hub.asked[0].endswith("/resolve/main/model.safetensors")
    assert hub.asked[-1] == f"GET /ZhengPeng7/BiRefNet_HR/resolve/{_COMMIT}/model.safetensors"


_SIGN_IN = "sign in at https://huggingface.co/briaai/RMBG-2.0 and accept"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", f"HF_TOKEN is not set: {_SIGN_IN}"),
        ("hf_unknown", "the hub does not know the token in HF_TOKEN"),
        ("hf_other", f"the account of HF_TOKEN may not read it: {_SIGN_IN}"),
    ],
)
def test_a_gated_model_says_how_to_be_let_in(
    token: str, words: str, hub: Hub, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", token)
    said = refusal()
    assert words in said
    assert not token or token not in said


def test_a_gated_model_is_fetched_with_a_token_that_may_read_it(
    hub: Hub, spec: ModelSpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", _TOKEN)
    assert fetch_model(spec, folder).read_bytes() == hub.body


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ((404, "RepoNotFound"), "The hub shows no https://huggingface.co/briaai/RMBG-2.0: check"),
        ((404, "EntryNotFound"), "holds no model.safetensors at the commit aaaa"),
        ((404, "RevisionNotFound"), "holds no model.safetensors at the commit aaaa"),
        ((451, ""), "could not be fetched from the hub: Client error '451"),
    ],
)
def test_a_hub_that_refuses_is_quoted(
    answered: tuple[int, str], words: str, hub: Hub, refusal: Refusal
) -> None:
    hub.refusal = answered
    said = refusal()
    assert words in said
    assert "RMBG_MODEL_PATH" in said


def test_a_hub_that_breaks_off_is_quoted(hub: Hub, refusal: Refusal) -> None:
    hub.cut = 1000
    said = refusal()
    assert f"of size {len(hub.body)} but has size {len(hub.body) - 1000}" in said
    assert "try again" in said


def test_a_pickle_is_not_kept_where_no_hash_is_known(hub: Hub, folder: Path) -> None:
    hub.body = b"PK\x03\x04" + bytes(100)
    with pytest.raises(CheckpointError, match="is a pickle"):
        fetch_model(get_spec("birefnet-hr"), folder)
    assert not list(folder.iterdir())


def test_nobody_at_the_address(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library's pauses between its attempts
    # Port 9 of loopback is the discard service, which nothing offers any more.
    _use_endpoint(monkeypatch, "http://127.0.0.1:9")
    said = refusal()
    assert "refused" in said
    assert "Check the network and its proxy" in said


def test_offline_takes_what_the_hubs_cache_holds_and_asks_nobody(
    hub: Hub, spec: ModelSpec, folder: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE forbids asking the hub" in refusal()
    assert not hub.asked
    huggingface_hub.hf_hub_download("briaai/RMBG-2.0", "model.safetensors", revision=_COMMIT)
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_model(spec, folder).read_bytes() == hub.body
    assert not hub.asked


def test_a_full_disk_is_said_so(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download._download_to_tmp_and_move", full)
    assert "cannot be used: No space left on device. Make room" in refusal()


def test_without_the_library_the_extra_is_named(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'rmbg-queue[hub]'" in refusal()
