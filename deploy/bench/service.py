"""`rmbg bench service`: how fast this machine removes backgrounds, and what that costs.

Starts a stack of its own, sends it photos in closed loops (each client sends its next picture when
it has the cutout of the last one), and does the same with `rembg s` and with the model alone, in
turn, so that all meet the machine in the same state.
"""

import io
import itertools
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import urllib3
from PIL import Image

from deploy.bench.processes import Program, Usage, read_usage, running_rembg, running_stack
from deploy.client import ClientError, ServiceClient
from deploy.local.ports import reserved_ports
from deploy.local.service import core_count
from inference.decoding_process import DecodingProcess
from inference.models.base import MattingModel
from inference.models.registry import get_spec
from inference.options import Options
from inference.pipeline import remove_background
from tasks.settings import Settings
from tasks.worker.startup import load_served_model

#: Sides of the measured photos by their megapixels: of the web, of a screen, of a camera.
SIZES: Final = {"0.25": (612, 408), "2.7": (2000, 1333), "12": (4242, 2828)}
#: The size of the comparison.
MAIN_SIZE: Final = "2.7"
_INPUTS: Final = ("jpg", "png")
_OUTPUTS: Final = ("png", "webp", "jpg")
#: The clients of the tables of processor time and of formats: all cores are busy.
_BUSY_CLIENTS: Final = 4
#: A camera's grain, in levels: without it an enlarged photo is a far smaller file than a real one.
_GRAIN: Final = 3
_JPEG_QUALITY: Final = 92
_REQUEST_SECONDS: Final = 300.0
_PREFER: Final = {"Prefer": "wait=60"}
_STAGE_RUNS: Final = 3
#: Beyond this load of each core by others, times by the clock say nothing.
_BUSY_LOAD: Final = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    #: Clients of the comparison.
    clients: tuple[int, ...]
    #: Rounds of the comparison, and pictures of a client in each.
    rounds: int
    pictures: int
    #: Sizes, formats in and formats out of the other table, and pictures of each.
    sizes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pictures_of_a_format: int
    idle_seconds: float

    @classmethod
    def of(cls, *, quick: bool) -> "Plan":
        """Return a plan of about 15 minutes on two cores, or a quick one of less than 4."""
        if quick:
            return cls((1, 4), 1, 5, (MAIN_SIZE,), _INPUTS, _OUTPUTS, 4, 10.0)
        return cls((1, 4, 16), 3, 8, tuple(SIZES), _INPUTS, _OUTPUTS, 12, 30.0)


@dataclass
class Loop:
    """What a closed loop measured; loops of several rounds are added."""

    #: Seconds from a request to its cutout.
    latencies: list[float] = field(default_factory=list)
    #: Of them, those beyond the model's own.
    beyond: list[float] = field(default_factory=list)
    #: Wall-clock seconds of the whole loop.
    seconds: float = 0.0
    #: Milliseconds of processor time by process.
    milliseconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: "Loop") -> None:
        """Add another round."""
        self.latencies += other.latencies
        self.beyond += other.beyond
        self.seconds += other.seconds
        for name, ms in other.milliseconds.items():
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + ms

    @property
    def per_second(self) -> float:
        """Pictures a second."""
        return len(self.latencies) / self.seconds

    @property
    def per_picture(self) -> dict[str, float]:
        """Milliseconds of processor time of one picture by process, the largest first."""
        count = len(self.latencies)
        spent = {name: ms / count for name, ms in self.milliseconds.items()}
        return dict(sorted(spent.items(), key=lambda each: -each[1]))

    def facts(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        return {
            "pictures": len(self.latencies),
            "pictures_per_second": round(self.per_second, 3),
            **{
                f"p{share}_ms": round(1000 * quantile(self.latencies, share), 1)
                for share in (50, 95, 99)
            },
            "beyond_the_model_p50_ms": (
                round(1000 * statistics.median(self.beyond), 1) if self.beyond else None
            ),
            "processor_ms_per_picture": {
                name: round(ms, 2) for name, ms in self.per_picture.items()
            },
        }


def quantile(values: Sequence[float], percent: int) -> float:
    """Return the least value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


#: Cuts one picture out; returns the seconds that its model took, if it says so.
Caller = Callable[[bytes], float | None]


def closed_loop(
    call: Caller, photo: bytes, usage: Callable[[], Usage], *, clients: int, pictures: int
) -> Loop:
    """Let clients send so many pictures each, one after the other, and read what that uses."""
    loop, lock = Loop(), threading.Lock()

    def client(_number: int) -> None:
        for _ in range(pictures):
            began = time.perf_counter()
            model = call(photo)
            took = time.perf_counter() - began
            with lock:
                loop.latencies.append(took)
                if model is not None:
                    loop.beyond.append(took - model)

    before, began = usage(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    loop.seconds = time.perf_counter() - began
    loop.milliseconds = usage().since(before)
    return loop


class OurService:
    """Cuts pictures out by the REST API: one request that waits, one for the file."""

    def __init__(self, url: str) -> None:
        """Keep as many connections as there are clients."""
        self._client = ServiceClient(url, connections=16)

    def cut_out(self, photo: bytes, output: str = "png") -> float:
        """Cut one picture out, and return the seconds that the model took."""
        fields: dict[str, Any] = {
            "image": ("photo", photo, "application/octet-stream"),
            "output_format": output,
            "cache": "false",
            **({"matte_color": "white"} if output == "jpg" else {}),
        }
        task = self._client.request("POST", "/api/v1/remove-bg", headers=_PREFER, fields=fields)
        if task["status"] != "succeeded":
            task = self._client.wait(task["task_id"])
        if task["status"] != "succeeded":
            raise ClientError(f"A picture was not cut out: {task['error']}")
        self._client.download(task["result_url"])
        return float(task["timings"]["inference_ms"]) / 1000


class Rembg:
    """Cuts pictures out by the server of the rembg library."""

    def __init__(self, url: str, model: str) -> None:
        """Keep as many connections as there are clients."""
        self._url, self._model = f"{url}/api/remove", model
        self._pool = urllib3.PoolManager(maxsize=16, retries=False, timeout=_REQUEST_SECONDS)

    def cut_out(self, photo: bytes) -> None:
        """Cut one picture out."""
        fields: dict[str, Any] = {
            "file": ("photo", photo, "application/octet-stream"),
            "model": self._model,
        }
        answer = self._pool.request("POST", self._url, fields=fields)
        if answer.status != 200:  # noqa: PLR2004
            raise ClientError(f"rembg answered {answer.status}: {answer.data[:200]!r}")


class ModelAlone:
    """Runs the model on one small picture: what is left if nothing else costs time."""

    def __init__(self, settings: Settings) -> None:
        """Load it on all cores, for one client, and once for each core, for many."""
        side = get_spec(settings.model).input_size
        self._picture = np.zeros((side, side, 3), np.uint8)
        single = settings.model_copy(update={"threads": 1})
        # A model runs one picture at a time.
        self._of_a_core = [load_served_model(single) for _ in range(core_count())]
        #: The model as a lone worker has it.
        self.on_all_cores = load_served_model(settings.model_copy(update={"threads": core_count()}))

    def loop(self, *, clients: int, pictures: int) -> Loop:
        """Run it as many times as clients would ask for, as many at a time as there are cores."""
        models = self._of_a_core if clients >= core_count() else [self.on_all_cores]
        idle = queue.SimpleQueue[MattingModel]()
        for model in models:
            idle.put(model)

        def call(_photo: bytes) -> None:
            mine = idle.get()
            mine.matte([self._picture])
            idle.put(mine)

        each = max(1, clients * pictures // len(models))
        usage = partial(read_usage, os.getpid(), alone=True)
        return closed_loop(call, b"", usage, clients=len(models), pictures=each)


def make_photo(size: str, kind: str) -> bytes:
    """Return the sample photo at one of `SIZES`, with a camera's grain, as jpg or png."""
    with files("deploy.local").joinpath("sample.jpg").open("rb") as file:
        large = Image.open(file).convert("RGB").resize(SIZES[size], Image.Resampling.LANCZOS)
    pixels = np.asarray(large, np.float32)
    pixels = pixels + np.random.default_rng(0).normal(0, _GRAIN, pixels.shape).astype(np.float32)
    picture, output = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), io.BytesIO()
    if kind == "jpg":
        picture.save(output, "JPEG", quality=_JPEG_QUALITY)
    else:
        picture.save(output, "PNG", compress_level=1)
    return output.getvalue()


def stage_milliseconds(photo: bytes, model: MattingModel) -> dict[str, float]:
    """Return the processor milliseconds of each stage of one picture, in this process.

    Decoding includes the decoding process, and passing the pixels on.
    """
    spent: dict[str, list[float]] = {}
    decoding = DecodingProcess()
    decoding.start()

    def used() -> float:
        return sum(read_usage(os.getpid()).milliseconds.values())

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        before = used()
        yield
        spent.setdefault(name, []).append(used() - before)

    try:
        for _ in range(1 + _STAGE_RUNS):  # the first warms up
            remove_background(photo, Options(), model, stages=stage, decoder=decoding.decode)
    finally:
        decoding.close()
    return {name: statistics.median(values[1:]) for name, values in spent.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured."""

    machine: str
    load: float
    #: By number of clients, then by who did the work.
    loops: Mapping[int, Mapping[str, Loop]]
    #: By size, format in, format out.
    formats: Mapping[tuple[str, str, str], Loop]
    #: By size, then by stage.
    stages: Mapping[str, Mapping[str, float]]
    #: Resident megabytes by process, after all loops.
    resident: Mapping[str, Mapping[str, float]]
    #: Shares of one core by process, of an idle stack.
    idle: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "machine": self.machine,
            "load_before": self.load,
            "loops": {
                str(clients): {who: loop.facts() for who, loop in loops.items()}
                for clients, loops in self.loops.items()
            },
            "formats": [
                {"megapixels": size, "input": kind, "output": output, **loop.facts()}
                for (size, kind, output), loop in self.formats.items()
            ],
            "stages_processor_ms": {size: dict(each) for size, each in self.stages.items()},
            "resident_mb": {who: dict(each) for who, each in self.resident.items()},
            "idle_share_of_a_core": dict(self.idle),
        }


OURS, PEER, RAW = "this service", "rembg s", "the model alone"


def measure(
    settings: Settings,
    plan: Plan,
    *,
    machine: str,
    up_options: Sequence[str] = (),
    rembg: Path | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Measure all of a plan.

    Args:
        settings: whose model is served; nothing else of them is used.
        plan: what is measured.
        machine: its name for the report.
        up_options: of `rmbg up`.
        rembg: the program `rembg` of another environment to compare with; None compares with none.
        progress: called with the name of each measurement before it begins.

    Raises:
        StackError, ClientError: a service did not start, or failed.
    """
    load = os.getloadavg()[0]
    photos = {(size, kind): make_photo(size, kind) for size in plan.sizes for kind in plan.inputs}
    photo = photos[MAIN_SIZE, "jpg"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress("start")
        ours = stack.enter_context(running_stack(folder, ("--model", settings.model, *up_options)))
        programs, callers = {OURS: ours}, dict[str, Caller]({OURS: OurService(ours.url).cut_out})
        if rembg is not None:
            programs[PEER], callers[PEER] = _start_rembg(stack, rembg, folder, settings)
        for call in callers.values():
            for _ in range(3):
                call(photo)
        progress("idle")
        idle = _idle_shares(ours, plan.idle_seconds)
        alone = ModelAlone(settings)
        loops = _compare(plan, photo, programs, callers, alone, progress)
        resident = {
            who: {name: each / 2**20 for name, each in program.usage().resident.items()}
            for who, program in programs.items()
        }
        formats = _measure_formats(plan, photos, ours, progress)
    progress("stages")
    stages = {
        size: stage_milliseconds(photos[size, "jpg"], alone.on_all_cores) for size in plan.sizes
    }
    return Report(machine, load, loops, formats, stages, resident, idle)


def _start_rembg(
    stack: ExitStack, program: Path, folder: Path, settings: Settings
) -> tuple[Program, Caller]:
    """Start rembg with a copy of our model's file."""
    name = get_spec(settings.model).file_name
    models = folder / "u2net"
    models.mkdir()
    models.joinpath(name).write_bytes(settings.model_file(name).read_bytes())
    port = stack.enter_context(reserved_ports())[0]
    running = stack.enter_context(running_rembg(program, models, folder, port))
    return running, Rembg(running.url, settings.model).cut_out


def _idle_shares(program: Program, seconds: float) -> dict[str, float]:
    before = program.usage()
    time.sleep(seconds)
    spent = program.usage().since(before)
    return {name: ms / 1000 / seconds for name, ms in spent.items()}


def _compare(  # noqa: PLR0917 - one loop over all
    plan: Plan,
    photo: bytes,
    programs: Mapping[str, Program],
    callers: Mapping[str, Caller],
    alone: ModelAlone,
    progress: Callable[[str], None],
) -> dict[int, dict[str, Loop]]:
    loops = {clients: {who: Loop() for who in (*callers, RAW)} for clients in plan.clients}
    for turn, clients in itertools.product(range(plan.rounds), plan.clients):
        # Many clients together make enough pictures with fewer each.
        pictures = max(2, plan.pictures // (1 if clients == 1 else 2))
        for who, call in callers.items():
            progress(f"round {turn + 1}: {who}, {clients} clients")
            usage = programs[who].usage
            loops[clients][who].add(
                closed_loop(call, photo, usage, clients=clients, pictures=pictures)
            )
        loops[clients][RAW].add(alone.loop(clients=clients, pictures=pictures))
    return loops


def _measure_formats(
    plan: Plan,
    photos: Mapping[tuple[str, str], bytes],
    ours: Program,
    progress: Callable[[str], None],
) -> dict[tuple[str, str, str], Loop]:
    service, measured = OurService(ours.url), {}
    for size, kind, output in itertools.product(plan.sizes, plan.inputs, plan.outputs):
        progress(f"{size} MP, {kind} to {output}")
        measured[size, kind, output] = closed_loop(
            partial(service.cut_out, output=output),
            photos[size, kind],
            ours.usage,
            clients=_BUSY_CLIENTS,
            pictures=max(1, plan.pictures_of_a_format // _BUSY_CLIENTS),
        )
    return measured


def markdown(report: Report) -> str:
    """Return the report as Markdown tables."""
    per_core = report.load / core_count()
    state = "a busy machine: times by the clock are too long" if per_core > _BUSY_LOAD else "quiet"
    return "\n".join(
        [
            f"{report.machine}; load before: {report.load:.2f} ({state}).",
            "",
            *_loops_table(report),
            *_processes_table(report),
            *_stages_table(report),
            *_formats_table(report),
            *_resident_table(report),
        ]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose first column is text."""
    align = ["---", *("---:" for _ in head[1:])]
    return [*(f"| {' | '.join(row)} |" for row in (head, align, *rows)), ""]


def _loops_table(report: Report) -> list[str]:
    times = ("p50 ms", "p95 ms", "p99 ms", "beyond the model, p50 ms", "processor ms a picture")
    head = ("clients, who", "pictures/s", *times, "pictures/s of rembg's")
    rows = []
    for clients, loops in report.loops.items():
        for who, loop in loops.items():
            p50, p95, p99 = (1000 * quantile(loop.latencies, share) for share in (50, 95, 99))
            peer = loops.get(PEER)
            rows.append(
                (
                    f"{clients}, {who}",
                    f"{loop.per_second:.2f}",
                    *(f"{each:,.0f}" for each in (p50, p95, p99)),
                    f"{1000 * statistics.median(loop.beyond):,.0f}" if loop.beyond else "",
                    f"{sum(loop.per_picture.values()):,.0f}",
                    f"{loop.per_second / peer.per_second:.2f}×" if peer else "",
                )
            )
    return table(head, rows)


def _processes_table(report: Report) -> list[str]:
    counts = list(report.loops)
    names = list(report.loops[counts[-1]][OURS].per_picture)
    head = ("processor ms a picture", *(f"{count} clients" for count in counts), "idle, of a core")
    rows = [
        (
            name,
            *(f"{report.loops[count][OURS].per_picture.get(name, 0):,.1f}" for count in counts),
            f"{report.idle.get(name, 0):.2%}",
        )
        for name in names
    ]
    totals = [sum(report.loops[count][OURS].per_picture.values()) for count in counts]
    total = ("all", *(f"{each:,.1f}" for each in totals), f"{sum(report.idle.values()):.2%}")
    return table(head, [*rows, total])


def _stages_table(report: Report) -> list[str]:
    sizes = list(report.stages)
    names = list(report.stages[sizes[0]])
    head = ("processor ms by stage", *(f"{size} MP" for size in sizes))
    rows = [
        (name, *(f"{report.stages[size].get(name, 0):,.1f}" for size in sizes)) for name in names
    ]
    return table(head, rows)


def _formats_table(report: Report) -> list[str]:
    head = ("megapixels, in, out", "pictures/s", "p50 ms", "worker ms", "all others ms")
    rows = []
    for (size, kind, output), loop in report.formats.items():
        spent = loop.per_picture
        worker = sum(ms for name, ms in spent.items() if name.startswith("worker"))
        rows.append(
            (
                f"{size} {kind} → {output}",
                f"{loop.per_second:.2f}",
                f"{1000 * quantile(loop.latencies, 50):,.0f}",
                f"{worker:,.0f}",
                f"{sum(spent.values()) - worker:,.0f}",
            )
        )
    return table(head, rows)


def _resident_table(report: Report) -> list[str]:
    rows = [
        (f"{who}: {name}", f"{megabytes:,.0f}")
        for who, each in report.resident.items()
        for name, megabytes in sorted(each.items(), key=lambda one: -one[1])
    ]
    return table(("process", "resident MB"), rows)
