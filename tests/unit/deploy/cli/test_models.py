"""`rmbg models`: the list, and what fetching prints."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deploy.cli import models
from inference.models.registry import MODELS


def _run(*arguments: str, **environment: str) -> Result:
    env = {"COLUMNS": "80", **environment}
    return CliRunner().invoke(models.app, arguments, env=env, catch_exceptions=False)


def test_every_model_is_listed_with_its_licence_and_its_source() -> None:
    result = _run("list")
    assert result.exit_code == 0
    for spec in MODELS.values():
        (line,) = (
            line for line in result.output.splitlines() if line.startswith(f"│ {spec.name} ")
        )
        assert spec.licence in line
        assert ("no, ask" in line) == (spec.name == "rmbg-2.0")
    words = " ".join(result.output.replace("│", " ").split())
    assert "briaai/RMBG-2.0, commit not pinned" in words
    assert "566ed80c3d95" in words
    assert "none could be verified" in words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-model", "Known models: birefnet, birefnet-hr"),
        ("birefnet-tiny", "set RMBG_MODEL_PATH to a file of your own"),
        ("rmbg-2.0", "HF_HUB_OFFLINE forbids asking the hub"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_reported_with_the_reason(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    result = _run("fetch", name, "--into", str(tmp_path))
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


def test_fetching_ends_with_the_licence() -> None:
    result = _run("fetch", "u2netp")
    assert result.exit_code == 0
    assert "u2netp: " in result.output
    assert "Licence: Apache-2.0, https://" in result.output
