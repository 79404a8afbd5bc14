"""What a worker's parent checks of a model's file before it starts a child."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from tasks.worker.startup import prepare_parent


@pytest.fixture(autouse=True)
def signals_and_logs_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tasks.worker.startup.configure_logging", lambda _settings: None)
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


def test_a_model_that_is_not_for_commerce_says_so_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    # As large as the real one, but all hole.
    os.truncate(path, 884_878_856)
    monkeypatch.setenv("RMBG_MODEL", "rmbg-2.0")
    monkeypatch.setenv("RMBG_MODEL_PATH", str(tmp_path))
    with capture_logs() as lines:
        prepare_parent(SimpleNamespace())
    (warning,) = lines
    assert warning["event"] == "worker.non_commercial_model"
    assert "CC BY-NC 4.0: commercial use needs its authors' permission" in warning["reason"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [("birefnet-tiny", "is missing. Set RMBG_MODEL_PATH to its file"), ("nobody", "nobody")],
)
def test_without_a_model_the_parent_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, reason: str
) -> None:
    monkeypatch.setenv("RMBG_MODEL", model)
    monkeypatch.setenv("RMBG_MODEL_PATH", str(tmp_path / "weights.safetensors"))
    with capture_logs() as lines, pytest.raises(SystemExit, match="1"):
        prepare_parent(SimpleNamespace())
    assert [line["event"] for line in lines] == ["worker.model_unusable"]
    assert reason in lines[0]["reason"]
