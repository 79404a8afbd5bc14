"""What the service adds to the model: submitting, everything around inference, the API's size.

Starts `rmbg up` on free ports with a data folder of its own, measures, ends it.
"""

import io
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from benchmarks.machine import machine
from benchmarks.tables import table
from deploy.client import ServiceClient
from deploy.local import service as local_service

RUNS = 30
PHOTO = Path(__file__).parents[1] / "tests" / "data" / "coffee.jpg"
_START_SECONDS = 180


@contextmanager
def service(folder: Path) -> Iterator[dict[str, Any]]:
    """A running `rmbg up`; what it wrote to its `run.json`."""
    command = [local_service.script("rmbg"), "up", "--port", "0", "--no-flower"]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen([*command, "--data", str(folder / "data")], stdout=log)
    facts = folder / "data" / "run.json"
    try:
        end = time.monotonic() + _START_SECONDS
        while not facts.exists():
            if process.poll() is not None or time.monotonic() > end:
                sys.exit((folder / "up.log").read_text())
            time.sleep(0.2)
        yield {**json.loads(facts.read_text()), "pid": process.pid}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def photo(folder: Path, size: tuple[int, int], kilobytes: int) -> Path:
    """The sample photo at that size, as a JPEG of about so many kB."""
    large = Image.open(PHOTO).resize(size, Image.Resampling.LANCZOS)
    for quality in range(98, 20, -3):
        file = io.BytesIO()
        large.save(file, "JPEG", quality=quality)
        if file.tell() <= kilobytes * 1000:
            break
    path = folder / f"{size[0]}x{size[1]}.jpg"
    path.write_bytes(file.getvalue())
    return path


def submit_ms(client: ServiceClient, picture: Path) -> list[float]:
    """Milliseconds of each submission, with the queue empty in between."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        task_id = client.submit(picture, {"cache": "false"})
        times.append((time.perf_counter() - began) * 1000)
        client.wait(task_id)
    return times


def around_inference_ms(client: ServiceClient, picture: Path) -> list[dict[str, int]]:
    """The stage times of each of some jobs."""
    return [client.wait(client.submit(picture, {"cache": "false"}))["timings"] for _ in range(RUNS)]


def api_processes(pid: int) -> list[psutil.Process]:
    """The processes of the API below `rmbg up`."""
    below = psutil.Process(pid).children(recursive=True)
    return [each for each in below if "gunicorn: worker" in " ".join(each.cmdline())]


def api_facts(pid: int) -> list[tuple[str, str, str]]:
    """Resident memory of each API process, and the seconds that importing it takes."""
    resident = max(each.memory_info().rss for each in api_processes(pid)) / 2**20
    script = "import time; t = time.perf_counter(); import api.app; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", script]
    runs = [
        float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5)
    ]
    return [
        ("API process, resident, largest", f"{resident:.0f} MB", "120 MB"),
        ("import api.app, median of 5", f"{statistics.median(runs):.2f} s", "1.5 s"),
    ]


def main() -> None:
    """Measure and print one table."""
    with tempfile.TemporaryDirectory() as name, service(Path(name)) as facts:
        folder = Path(name)
        with ServiceClient(facts["api_url"]) as client:
            client.cut_out(PHOTO, {})
            submits = submit_ms(client, photo(folder, (1600, 1067), 500))
            stages = around_inference_ms(client, photo(folder, (2000, 1333), 2000))
        rows = api_facts(facts["pid"])
    around = [
        sum(ms for stage, ms in run.items() if stage not in {"inference_ms", "queue_ms"})
        for run in stages
    ]
    rows += [
        (
            f"submit a 500 kB JPEG, median of {RUNS}",
            f"{statistics.median(submits):.1f} ms",
            "30 ms",
        ),
        (
            f"all but inference, 2000 × 1333, median of {RUNS}",
            f"{statistics.median(around):.0f} ms",
            "150 ms",
        ),
    ]
    rows += [
        (f"  {stage}", f"{statistics.median(run[stage] for run in stages):.0f} ms", "")
        for stage in stages[0]
    ]
    print(machine())
    table(("what", "measured", "target"), rows)


if __name__ == "__main__":
    main()
