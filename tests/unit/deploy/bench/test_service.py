"""What `rmbg bench service` makes of its measurements."""

import io
import json
import os
import subprocess
import sys
import threading

import pytest
from PIL import Image

from deploy.bench.processes import Usage, read_usage
from deploy.bench.service import (
    OURS,
    PEER,
    RAW,
    SIZES,
    Loop,
    Report,
    closed_loop,
    make_photo,
    markdown,
    quantile,
)


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([4, 2, 1, 3], percent) for percent in (50, 75, 95, 99)] == [2, 3, 4, 4]


def test_clients_of_a_closed_loop_work_at_once_and_what_they_used_is_divided() -> None:
    together = threading.Barrier(3, timeout=30)
    spent = iter([{"API": 5.0}, {"API": 65.0, "worker, child": 6.0}])

    def call(photo: bytes) -> float:
        assert photo == b"photo"
        together.wait()
        return 0.0

    loop = closed_loop(call, b"photo", lambda: Usage(next(spent), {}), clients=3, pictures=2)
    assert loop.per_picture == {"API": 10.0, "worker, child": 1.0}
    assert len(loop.latencies) == len(loop.beyond) == 6
    twice = Loop()
    twice.add(loop)
    twice.add(loop)
    assert twice.per_picture == loop.per_picture
    assert twice.per_second == pytest.approx(loop.per_second)


def test_usage_counts_the_processes_below_by_their_names() -> None:
    code = "import sys; sum(range(10**6)); print(); sys.stdin.read()"
    command = [sys.executable, "-c", code, "inference.decoding_process"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.read(1)  # it has begun
        usage = read_usage(os.getpid())
        child.stdin.close()
    assert usage.milliseconds["worker, decoding process"] > 1
    assert usage.resident["worker, decoding process"] > 2**20
    alone = read_usage(os.getpid(), alone=True)
    assert "worker, decoding process" not in alone.milliseconds


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_photo_has_the_size_and_the_format_that_are_asked_for(kind: str) -> None:
    with Image.open(io.BytesIO(make_photo("0.25", kind))) as photo:
        assert (photo.size, photo.format) == (SIZES["0.25"], {"jpg": "JPEG", "png": "PNG"}[kind])


def test_a_report_says_all_as_markdown_and_as_json() -> None:
    def loop(seconds: float) -> Loop:
        spent = {"worker, child": 400.0, "API": 40.0}
        return Loop([seconds] * 4, [seconds / 4] * 4, 2 * seconds, spent)

    loops = {4: {OURS: loop(1), PEER: loop(2), RAW: loop(0.5)}}
    formats = {("2.7", "jpg", "webp"): loop(1)}
    idle = {"API": 0.01, "worker, child": 0.005}
    report = Report("A machine", 0, loops, formats, {"2.7": {"decode": 12.3}}, {OURS: {}}, idle)
    text = markdown(report)
    for row in (
        f"| 4, {OURS} | 2.00 | 1,000 | 1,000 | 1,000 | 250 | 110 | 2.00× |",
        "| all | 110.0 | 1.50% |",
        "| 2.7 jpg → webp | 2.00 | 1,000 | 100 | 10 |",
    ):
        assert row in text
    facts = json.loads(json.dumps(report.facts()))
    assert facts["loops"]["4"][OURS]["processor_ms_per_picture"]["worker, child"] == 100
