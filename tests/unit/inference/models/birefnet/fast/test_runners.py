"""Which path an engine takes, what it says of it, and what it does when the memory is full."""

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import cache_dir

from inference.errors import GpuOutOfMemoryError
from inference.models.base import HasExecutionPath, HasGpuMemory
from inference.models.birefnet.config import PRESETS, BiRefNetConfig, SwinConfig
from inference.models.birefnet.engine import BiRefNetModel
from inference.models.birefnet.fast import runners
from inference.models.birefnet.fast.network import FastBiRefNet
from inference.models.birefnet.fast.runners import (
    CapturedGraphs,
    ExecutionPath,
    Runner,
    choose_execution_path,
    compiler_cache_folder,
    make_runner,
)
from inference.models.birefnet.golden import golden_network
from inference.models.birefnet.network import BiRefNet

_CPU = torch.device("cpu")
_SWIN = SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window=4)
#: The smallest that torch.compile is let at.
_SMALLEST = BiRefNetConfig(
    swin=_SWIN, input_size=64, inner_channels=8, aspp_channels=8, aspp_kernels=(1,)
)


def _pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (60 + 7 * n, 90 - 5 * n, 3), np.uint8) for n in range(count)]


def test_the_cpu_takes_the_fast_path_and_the_same_mattes_come_of_it(
    engine: BiRefNetModel, tiny_network: BiRefNet
) -> None:
    reference = BiRefNetModel("mine", tiny_network, _CPU, torch.float32, compile_="off")
    assert isinstance(engine, HasExecutionPath)
    assert isinstance(engine, HasGpuMemory)
    assert engine.gpu_memory() is None, "it runs on the CPU"
    assert (engine.path, reference.path) == ("fast", "reference")
    assert "compiling" in engine.path_reason
    assert reference.path_reason == "it was asked for"
    pictures = _pictures(3)
    for ours, expected in zip(engine.matte(pictures), reference.matte(pictures), strict=True):
        assert np.abs(ours - expected).max() <= 1e-4


@pytest.mark.parametrize(
    ("device", "side", "path", "words"),
    [
        ("cpu", 1056, ExecutionPath.REFERENCE, "1056 pixels are no multiple of 64"),
        pytest.param(
            *("cuda:0", 1024, ExecutionPath.GRAPHED, "its own kernel: there is no CUDA device"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
        *(("cpu", config.input_size, ExecutionPath.FAST, "") for config in PRESETS.values()),
    ],
)
def test_the_path_follows_the_device_and_the_side(
    device: str, side: int, path: ExecutionPath, words: str
) -> None:
    chosen, reason = choose_execution_path("auto", torch.device(device), side)
    assert chosen is path
    assert words in reason


class _Small:
    """A GPU that holds a number of pictures."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.asked: list[int] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        self.asked.append(len(pixels))
        if len(pixels) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pixels.mean(1, keepdim=True)


def test_a_batch_that_does_not_fit_is_split_and_the_size_is_remembered(
    engine: BiRefNetModel,
) -> None:
    engine, pictures = copy(engine), _pictures(5)
    engine._run = _Small(holds=9)
    expected = engine.matte(pictures)
    engine._run = small = _Small(holds=2)
    mattes = engine.matte(pictures)
    assert small.asked == [5, 2, 2, 1]
    for ours, theirs in zip(mattes, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    small.asked.clear()
    engine.matte(pictures[:3])
    assert small.asked == [2, 1]
    small.holds = 0
    with pytest.raises(GpuOutOfMemoryError):
        engine.matte(pictures)


class _NoGraphs:
    """In place of `CapturedGraphs`, which needs a GPU: it compiles for one picture, and runs."""

    def __init__(
        self, run: Callable[[Tensor], Tensor], network: FastBiRefNet, batches: Sequence[int]
    ) -> None:
        assert batches == (1,), "the service runs one picture at a time"
        self._run = run
        run(network.example(1))

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._run(pixels)


def _make_graphed(cache: Path | None) -> Runner:
    network = golden_network(_SMALLEST, "tiny")
    return make_runner(ExecutionPath.GRAPHED, network, _CPU, torch.float32, side=64, cache=cache)


class _CompilerError(Exception):
    """Wraps another, as torch's BackendCompilerFailed does."""

    inner_exception = OSError("no gcc")


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (RuntimeError("no compiler here\nand more"), "RuntimeError: no compiler here"),
        (_CompilerError("backend='inductor' raised:\nmany lines"), "OSError: no gcc"),
    ],
)
def test_a_compiler_that_fails_leaves_the_fast_path(
    error: Exception, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(runners, "CapturedGraphs", fail)
    runner = _make_graphed(None)
    assert runner.path is ExecutionPath.FAST
    assert runner.reason == f"torch.compile failed: {named}"
    assert runner.run(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_batches_run_in_the_captured_sizes_that_fit_into_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[int] = []

    def capture(run: Callable[[Tensor], Tensor], pixels: Tensor, _pool: object) -> object:
        """Run anew where a GPU would replay."""
        logits = run(pixels)

        def replay() -> None:
            ran.append(len(pixels))
            logits.copy_(run(pixels))

        return runners._CapturedGraph(SimpleNamespace(replay=replay), pixels, logits)  # type: ignore[arg-type]

    monkeypatch.setattr(runners, "_capture_graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    network = golden_network(_SMALLEST, "tiny")
    fast = FastBiRefNet(network, 64)
    graphs = CapturedGraphs(_Small(holds=4), fast, (1, 2, 4, 8))
    for count, sizes in ((1, [1]), (2, [2]), (3, [4]), (4, [4]), (7, [4, 4]), (9, [4, 4, 1])):
        pictures = torch.rand(count, 3, 64, 64)
        torch.testing.assert_close(graphs(pictures), pictures.mean(1, keepdim=True))
        assert ran == sizes
        ran.clear()
    with pytest.raises(torch.OutOfMemoryError, match="no batch fits"):
        CapturedGraphs(_Small(holds=4), fast, (8,))


def _start(cache: Path) -> Runner:
    """A worker's start, as far as the compiler can tell."""
    torch.compiler.reset()
    counters.clear()
    runner = _make_graphed(cache)
    assert runner.reason == ""
    assert runner.path is ExecutionPath.GRAPHED
    return runner


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@torch.inference_mode()
def test_a_second_start_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "CapturedGraphs", _NoGraphs)
    cache, picture = tmp_path / "compiled", torch.ones(1, 3, 64, 64)
    first = _start(cache)
    assert (counters["inductor"]["fxgraph_cache_miss"], cache.stat().st_mode & 0o077) == (1, 0)
    torch.testing.assert_close(
        first.run(picture), golden_network(_SMALLEST, "tiny")(picture), atol=2e-3, rtol=0
    )
    made = sorted(file for file in cache.rglob("*.so"))
    assert made
    second = _start(cache)
    found = counters["inductor"]
    assert (found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]) == (1, 0)
    assert sorted(cache.rglob("*.so")) == made
    torch.testing.assert_close(second.run(picture), first.run(picture))


@pytest.mark.parametrize(
    ("mode", "used"), [(0o700, True), (0o770, False), (0o707, False), (0o1777, True)]
)
def test_a_folder_is_made_for_its_owner_alone_where_others_cannot_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, *, used: bool
) -> None:
    tmp_path.chmod(mode)
    folder = tmp_path / "compiled"
    with compiler_cache_folder(folder) as kept:
        assert kept == used
    assert folder.stat().st_mode & 0o777 == 0o700
    with compiler_cache_folder(tmp_path) as kept:
        assert kept == (mode == 0o700), "others may write into it"
    monkeypatch.setattr(runners, "getuid", lambda: -1)
    with compiler_cache_folder(folder) as kept:
        assert not kept, "it is another user's"


def test_without_a_folder_a_private_temporary_one_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (None, tmp_path / "file" / "below"):
        with compiler_cache_folder(folder) as kept:
            assert not kept
            temporary = Path(cache_dir())
            assert temporary.stat().st_mode & 0o777 == 0o700
        assert not temporary.exists()


def test_a_folder_that_is_not_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(runners, "CapturedGraphs", lambda *_: None)
    cache = tmp_path / "file" / "compiled"
    assert f"compiled code is not kept: {cache}" in _make_graphed(cache).reason
