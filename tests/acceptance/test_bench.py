"""`rmbg bench` with a service that `rmbg up` has started: what is measured, and of whom."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from deploy.bench import gpu_share, memory
from deploy.bench import service as service_bench
from deploy.bench.processes import Program, running_stack
from deploy.bench.service import OURS, PEER, RAW, Plan
from deploy.cli import bench
from inference.models.birefnet.config import PRESETS
from tasks.worker.metrics import GpuReading
from tests.support.models import FakeModel
from tests.support.paths import ROOT

# They take a tenth of the time of all other tests.
pytestmark = pytest.mark.slow

#: Who works on a picture; others may not have used any time that is seen.
_WORKED = {"API", "worker, child", "worker, decoding process", "Redis", "object store"}


def _bench(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(bench.app, arguments, catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.stdout if status == 0 else done.output


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, u2netp_file: Path) -> Iterator[Program]:
    """One service for all of them, by the way that each starts its own."""
    env = {"RMBG_MODEL_DIR": str(u2netp_file.parent)}
    options = ("--model", "u2netp", "--workers", "1", "--no-flower")
    with running_stack(tmp_path_factory.mktemp("stack"), options, env=env) as running:
        yield running


@pytest.fixture
def asked(program: Program, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The options and variables of each service that was asked for."""
    asked = []

    @contextmanager
    def running(
        _folder: Path, options: Sequence[str], *, env: Mapping[str, str] | None = None, **_: float
    ) -> Iterator[Program]:
        asked.append((options, env))
        yield program

    for module in (service_bench, memory, gpu_share):
        monkeypatch.setattr(module, "running_stack", running)
    monkeypatch.setattr(service_bench, "MAIN_SIZE", "0.25")
    monkeypatch.setattr(gpu_share, "MAIN_SIZE", "0.25")
    return asked


def test_the_service_is_measured_beside_rembg_and_the_model_alone(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = Plan((1, 2), 1, 2, ("0.25",), ("jpg",), ("webp", "jpg"), 4, 0.1)
    monkeypatch.setattr(service_bench, "_STAGE_RUNS", 1)
    monkeypatch.setattr(Plan, "of", lambda **_: plan)
    report = tmp_path / "report.json"
    rembg = ROOT / "tests/support/fake_rembg.py"
    text = _bench(
        *("service", "--model", "u2netp", "--workers", "3"),
        *("--rembg", str(rembg), "--json", str(report)),
    )
    assert asked == [(("--model", "u2netp", "--workers", "3"), None)]
    facts = json.loads(report.read_text())
    for clients, loops in facts["loops"].items():
        assert set(loops) == {OURS, PEER, RAW}
        for who, loop in loops.items():
            _, found, cells = text.partition(f"\n| {clients}, {who} | ")
            assert found, text
            # Both are rounded.
            assert float(cells.split(" ")[0]) == pytest.approx(
                loop["pictures_per_second"], abs=0.006
            )
            assert (loop["beyond_the_model_p50_ms"] is None) == (who != OURS)
    assert [each["pictures"] for each in facts["loops"]["2"].values()][:2] == [4, 4]
    assert facts["loops"]["2"][OURS]["processor_ms_per_picture"].keys() >= _WORKED
    assert facts["resident_mb"][OURS].keys() >= _WORKED
    formats = [(each["input"], each["output"], each["pictures"]) for each in facts["formats"]]
    assert formats == [("jpg", "webp", 4), ("jpg", "jpg", 4)]
    stages = facts["stages_processor_ms"]["0.25"]
    assert {"decode", "preprocess", "inference", "compose", "encode"} <= stages.keys()


def test_memory_is_read_after_the_pictures_that_its_table_names(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_FIRST_READING", 2)
    head, _, *rows = _bench("service", "--model", "u2netp", "--pictures", "4").splitlines()
    assert asked == [(("--model", "u2netp"), None)]
    assert head == "| resident MB after | 2 | 4 | since 4 |"
    cells = [row.strip("| ").split(" | ") for row in rows if row]
    found = {name: (float(first), float(last)) for name, first, last, _ in cells}
    assert found.keys() >= _WORKED
    assert min(min(found[name]) for name in _WORKED) > 1


def test_services_that_share_a_gpu_are_given_it_and_the_weights(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(settings: Any) -> FakeModel:  # noqa: ANN401
        loaded.append(settings)
        return FakeModel()

    class Gpu:
        def read(self) -> GpuReading:
            return GpuReading(3 * 2**20, 4 * 2**20, 0.5)

    weights = {name: torch.ones(1) for name in gpu_share._LAST_LAYER}
    monkeypatch.setattr(gpu_share, "golden_state", lambda _: weights)
    monkeypatch.setattr(gpu_share, "load_served_model", load)
    monkeypatch.setattr(gpu_share, "find_gpu", {"cuda:1": Gpu()}.get)
    for name, value in (("_SAMPLE_SECONDS", 0.001), ("_WARM_UPS", 1), ("_CLIENTS_A_WORKER", 1)):
        monkeypatch.setattr(gpu_share, name, value)
    text = _bench(*("gpu-share", "--device", "cuda:1", "--workers", "2", "--pictures", "1"))
    (row,) = (line for line in text.splitlines() if line.startswith("| 2 |"))
    ((options, env),) = asked
    assert options == ("--model", "rmbg-2.0", "--workers", "2", "--no-flower")
    assert env == {
        "RMBG_MODEL": "rmbg-2.0",
        "RMBG_MODEL_PATH": str(loaded[0].model_path),
        "RMBG_PATCH_ORDER": PRESETS["rmbg-2.0"].patch_order,
        "RMBG_DEVICE": loaded[0].device,
    }
    assert row.split(" | ")[4:6] == ["50%", "3"]


def test_a_service_that_does_not_start_is_an_error_with_the_reason() -> None:
    assert "rmbg up did not start" in _bench(
        *("service", "--model", "nobody", "--pictures", "1"), status=1
    )
