"""`rmbg bench gpu-share`: how many workers one GPU carries, and what each more of them brings.

Starts a service for each number of workers, all on one device, and lets twice as many clients send
it photos in closed loops. The weights are made up, since time and memory do not depend on them.
Beside it: the model alone, called again and again in this process. On a CPU it is a rehearsal.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.torch import save_file

from deploy.bench.processes import running_stack
from deploy.bench.service import MAIN_SIZE, OurService, closed_loop, make_photo, quantile, table
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_state
from tasks.settings import Settings
from tasks.worker.metrics import Gpu, find_gpu
from tasks.worker.startup import load_served_model

_SAMPLE_SECONDS: Final = 0.2
#: A first start compiles and records graphs.
_START_SECONDS: Final = 900.0
_CLIENTS_A_WORKER: Final = 2
_WARM_UPS: Final = 3
_WORKER: Final = "worker, child"
_LAST_LAYER: Final = ("decoder.conv_out1.0.weight", "decoder.conv_out1.0.bias")
#: By this the last layer's logits are multiplied.
_DECIDED: Final = 20


@dataclass
class GpuLoad:
    """What was read of the GPU while something ran; empty without one.

    Attributes:
        busy: shares of the time in which a kernel ran, 0..1.
        used: bytes of its memory that all processes had.
    """

    busy: list[float] = field(default_factory=list)
    used: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Share:
    """What a number of workers made of the device; zero workers: the model alone."""

    workers: int
    per_second: float
    #: Seconds of a picture, the median.
    latency: float
    gpu: GpuLoad
    #: Resident megabytes of one worker's child.
    worker_mb: float


@contextmanager
def watched_gpu(device: str) -> Iterator[GpuLoad]:
    """Read a GPU's load again and again during the block, if `pynvml` is installed and finds it.

    Args:
        device: cuda, cuda:N, or cpu, of which nothing is read.
    """
    load, ended = GpuLoad(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        if gpu := find_gpu(device):
            pool.submit(_watch, gpu, load, ended)
        try:
            yield load
        finally:
            ended.set()


def _watch(gpu: Gpu, load: GpuLoad, ended: threading.Event) -> None:
    while not ended.wait(_SAMPLE_SECONDS):
        if reading := gpu.read():
            load.busy.append(reading.busy)
            load.used.append(reading.used)


def measure_shares(
    model: str,
    device: str,
    counts: Sequence[int],
    pictures: int,
    *,
    progress: Callable[[str], None] = lambda _line: None,
) -> Iterator[Share]:
    """Yield what the model alone makes of the device, and then each number of workers.

    Args:
        model: a BiRefNet, by its name in the registry.
        device: cuda, cuda:N or cpu.
        counts: numbers of workers.
        pictures: of each client.
        progress: called with the name of each measurement before it begins.

    Raises:
        StackError, ClientError: a service did not start, or failed.
        ModelError: the model does not run on the device.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = {**stand_in_settings(model, Path(folder)), "RMBG_DEVICE": device}
        progress("the model alone")
        yield _model_alone(Settings.load(**_fields(env)), pictures)
        for count in counts:
            progress(f"{count} workers")
            yield _service(Path(folder, str(count)), model, count, pictures, env)


def stand_in_settings(model: str, folder: Path) -> dict[str, str]:
    """Write made-up weights of a BiRefNet to a folder, and return the settings that name them.

    Their mattes are decided, as `rmbg up` checks its sample's.
    """
    config = PRESETS[model]
    state = golden_state(config)
    for name in _LAST_LAYER:
        state[name] = _DECIDED * state[name]
    weights = folder / "model.safetensors"
    save_file(state, weights)
    return {
        "RMBG_MODEL": model,
        "RMBG_MODEL_PATH": str(weights),
        "RMBG_PATCH_ORDER": config.patch_order.value,
    }


def _fields(env: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix("RMBG_").lower(): value for name, value in env.items()}


def _model_alone(settings: Settings, pictures: int) -> Share:
    """Call the model again and again; it is let go afterwards, with its memory."""
    model = load_served_model(settings)
    side = PRESETS[settings.model].input_size
    picture = np.zeros((side, side, 3), np.uint8)
    for _ in range(_WARM_UPS):
        model.matte([picture])
    seconds = []
    with watched_gpu(settings.device) as load:
        for _ in range(pictures):
            began = time.perf_counter()
            model.matte([picture])
            seconds.append(time.perf_counter() - began)
    return Share(0, len(seconds) / sum(seconds), statistics.median(seconds), load, 0.0)


def _service(
    folder: Path, model: str, workers: int, pictures: int, env: Mapping[str, str]
) -> Share:
    folder.mkdir()
    photo = make_photo(MAIN_SIZE, "jpg")
    options = ("--model", model, "--workers", str(workers), "--no-flower")
    with ExitStack() as stack:
        service = stack.enter_context(
            running_stack(folder, options, env=env, seconds=_START_SECONDS)
        )
        call = OurService(service.url).cut_out
        clients = _CLIENTS_A_WORKER * workers
        closed_loop(call, photo, service.usage, clients=clients, pictures=_WARM_UPS)
        load = stack.enter_context(watched_gpu(env["RMBG_DEVICE"]))
        loop = closed_loop(call, photo, service.usage, clients=clients, pictures=pictures)
        resident = service.usage().resident.get(_WORKER, 0) / 2**20 / workers
    return Share(workers, loop.per_second, quantile(loop.latencies, 50), load, resident)


def share_row(share: Share, alone: Share) -> tuple[str, ...]:
    """Return the cells of `SHARE_HEAD`; the first row is the model alone."""
    busy, used = share.gpu.busy, share.gpu.used
    return (
        str(share.workers or "the model alone"),
        f"{share.per_second:,.2f}",
        f"{share.per_second / alone.per_second:.2f}×",
        f"{1000 * share.latency:,.0f}",
        f"{statistics.mean(busy):.0%}" if busy else "–",
        f"{max(used) / 2**20:,.0f}" if used else "–",
        f"{share.worker_mb:,.0f}" if share.workers else "",
    )


SHARE_HEAD: Final = (
    "workers",
    "pictures/s",
    "of the model alone",
    "p50 ms",
    "GPU busy",
    "GPU MB",
    "resident MB a worker",
)


def share_table(shares: Sequence[Share]) -> str:
    """Return the shares as a Markdown table."""
    return "\n".join(table(SHARE_HEAD, [share_row(each, shares[0]) for each in shares]))
