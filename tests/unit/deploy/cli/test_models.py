"""`rmbg models`: the list, and what fetching prints."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deploy.cli import models
from inference.models.birefnet import order_check
from inference.models.birefnet.config import PatchOrder
from inference.models.registry import MODELS

#: A path that cannot be looked at, as below a folder that its user may not search.
LONG = "x" * 300


def _run(*arguments: str, **environment: str) -> Result:
    env = {"COLUMNS": "160", **environment}
    return CliRunner().invoke(models.app, arguments, env=env, catch_exceptions=False)


def test_every_model_is_listed_with_its_licence_its_source_and_its_patch_order() -> None:
    lines = _run("list", COLUMNS="60", RMBG_MODEL_DIR=f"/{LONG}").output.splitlines()
    for spec in MODELS.values():
        (at,) = (at for at, line in enumerate(lines) if line.startswith(f"{spec.name} "))
        assert spec.licence in lines[at]
        assert ("no, ask" in lines[at]) == (spec.name == "rmbg-2.0")
        order = f"  patch order {spec.patch_order} ({spec.patch_order_known_from})"
        assert (order in lines[at : at + 4]) == (spec.patch_order is not None)
    assert "  briaai/RMBG-2.0, commit not pinned; SHA-256 566ed80c3d95…" in lines


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fetch no-such-model", "Known models: birefnet, birefnet-dynamic"),
        ("fetch birefnet-tiny", "set RMBG_MODEL_PATH to a file of your own"),
        ("fetch rmbg-2.0", "HF_HUB_OFFLINE forbids asking the hub"),
        ("check u2netp", "u2netp is no BiRefNet"),
        ("check birefnet-tiny --weights nowhere", "nowhere"),
        (f"check birefnet-tiny --weights {LONG}", "File name too long"),
        ("check birefnet", "Fetch it first: rmbg models fetch birefnet"),
    ],
)
def test_what_cannot_be_fetched_or_checked_is_reported_with_the_reason(
    command: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    result = _run(*command.split(), RMBG_MODEL_DIR=str(tmp_path))
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


def test_fetching_ends_with_the_licence() -> None:
    result = _run("fetch", "u2netp")
    assert result.exit_code == 0
    assert "Finer, and slower: isnet-general-use" in result.output
    assert "Licence: Apache-2.0, https://" in result.output


_OLD, _NEW = PatchOrder


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({_OLD: 0.010, _NEW: 0.020}, f"{_OLD.value} is right, as the table of models says"),
        ({_OLD: 0.020, _NEW: 0.010}, f"Set RMBG_PATCH_ORDER={_NEW.value} for this file"),
        ({_OLD: 0.0200, _NEW: 0.0199}, "too close to tell"),
    ],
)
def test_a_check_names_the_right_patch_order(
    shares: dict[PatchOrder, float], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_check, "undecided_shares", lambda *_: shares)
    result = _run("check", "birefnet", "--weights", "mine.safetensors")
    assert result.exit_code == 0
    assert words in " ".join(result.output.split())
