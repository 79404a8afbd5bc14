"""`rmbg bench control`: what the service costs around the model, and what grows with the queue.

Starts the whole service on servers of its own, with models that only sleep; what is left is the
control plane: API, queue, worker, store and record. Then jobs are queued by the thousand, and what
one more costs is measured again.

Processor time is what the processes used, which is much the same on a busy machine. Times on the
clock, and what follows from them, are marked with a `*`: they hold on a quiet machine alone.
"""

import http.client
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from benchmarks.pretend_service import (
    HOST,
    MODEL,
    PretendService,
    own_seconds,
    picture,
    pretend_service,
)
from deploy.bench.processes import machine
from inference.version import __version__
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.jobs.routing import model_queue
from tasks.jobs.store import Message, lease_token
from tasks.object_store import original_key

#: Clients that submit at once, each of which waits for its answer.
CLIENTS: Final = 8
#: Calls that are measured together.
_CALLS: Final = 100
_BOUNDARY: Final = "picture-of-the-benchmark"
FORM_HEADERS: Final = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
_LEAST_MS: Final = 1e-3


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    gpus: tuple[int, ...] = (1, 2, 4, 8)
    sleeps_ms: tuple[float, ...] = (0.0, 5.0, 15.0)
    jobs: int = 1_000
    queued: tuple[int, ...] = (10, 1_000, 100_000)
    workers: tuple[int, ...] = (1, 8, 100, 1_000)
    idle_seconds: float = 10.0


#: What `--quick` measures.
QUICK: Final = Plan(
    gpus=(1, 4),
    sleeps_ms=(0.0, 15.0),
    jobs=200,
    queued=(10, 1_000, 5_000),
    workers=(1, 8, 100),
    idle_seconds=3.0,
)


@dataclass(frozen=True)
class Round:
    """Some jobs, and what they cost.

    Attributes:
        what: was done with them.
        gpus: workers; 0 while nobody took the jobs.
        sleep_ms: of the model for each picture.
        a_second: jobs, by the clock.
        busy: share of the time in which the models slept, by the clock.
        processor_ms: of one job, by kind of process.
        commands: that Redis ran for one job.
        round_trips: to Redis for one job.
        redis_bytes: to and from Redis for one job.
    """

    what: str
    gpus: int
    sleep_ms: float
    a_second: float
    busy: float
    processor_ms: Mapping[str, float]
    commands: float
    round_trips: float
    redis_bytes: float

    @property
    def total_ms(self) -> float:
        """Processor time of one job in all processes but the client's."""
        return sum(self.processor_ms.values())


@dataclass
class Report:
    """All that was measured."""

    machine: str
    version: str = __version__
    rounds: list[Round] = field(default_factory=list)
    #: Processor time of the idle service, as a share of one core, by kind of process.
    idle: dict[str, float] = field(default_factory=dict)
    resident_mb: dict[str, float] = field(default_factory=dict)
    #: What one call costs, by its name and the number of jobs that are queued.
    growth: dict[str, dict[int, float]] = field(default_factory=dict)
    #: The same of the choice of a queue, by the number of workers.
    routing: dict[str, dict[int, float]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it with the slopes and totals."""
        found = asdict(self)
        for made, each in zip(found["rounds"], self.rounds, strict=True):
            made["total_ms"] = each.total_ms
        found["slopes"] = {
            name: slope(values) for name, values in {**self.growth, **self.routing}.items()
        }
        return json.dumps(found, indent=2)


def slope(values: Mapping[int, float]) -> float:
    """Return the exponent by which a cost grows: 0 is flat, 1 is in proportion to the number.

    It is that of the last two numbers: what is small at first hides what grows.
    """
    (few, low), (many, high) = sorted(values.items())[-2:]
    return math.log(max(high, _LEAST_MS) / max(low, _LEAST_MS)) / math.log(many / few)


# -- jobs through the whole service ----------------------------------------------------------------


def form() -> bytes:
    """A request's body: a picture of 100 kB, of which no equal one is waited for."""
    parts = (
        b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + picture(),
        b'Content-Disposition: form-data; name="cache"\r\n\r\nfalse',
    )
    line = b"--" + _BOUNDARY.encode()
    return b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"


def submit(service: PretendService, jobs: int) -> None:
    """Submit so many pictures, by several clients at once.

    Raises:
        RuntimeError: one was refused.
    """
    body, refusals, left = form(), [], iter(range(jobs))
    headers = {**FORM_HEADERS, "X-API-Key": service.key}

    def run() -> None:
        connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
        for _ in left:
            connection.request("POST", "/api/v1/remove-bg", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != http.HTTPStatus.ACCEPTED:
                refusals.append(text)
                return
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if refusals:
        raise RuntimeError(f"a picture was refused: {refusals[0]!r}")


def await_empty(service: PretendService) -> None:
    """Return once no job waits or runs."""
    while service.pending():
        time.sleep(0.02)


def measure_round(
    service: PretendService, what: str, jobs: int, *, gpus: int = 0, sleep_ms: float = 0
) -> Round:
    """Submit jobs, and wait for their ends if there is a GPU; return what they cost."""
    for index in range(gpus):
        service.set_sleep(index, sleep_ms)
    before, began = service.usage(), time.perf_counter()
    submit(service, jobs)
    if gpus:
        await_empty(service)
    took = time.perf_counter() - began
    spent = service.usage() - before
    return Round(
        what,
        gpus,
        sleep_ms,
        jobs / took,
        jobs * sleep_ms / 1000 / took / gpus if gpus else 0.0,
        {kind: seconds / jobs * 1000 for kind, seconds in spent.processor.items()},
        spent.commands / jobs,
        spent.round_trips / jobs,
        spent.redis_bytes / jobs,
    )


def measure_rounds(service: PretendService, plan: Plan, report: Report) -> None:
    """Measure submissions alone, and then all of it by models and workers."""
    submit(service, CLIENTS * 4)
    report.rounds.append(measure_round(service, "submit", plan.jobs))
    for gpus in plan.gpus:
        service.start_workers(*range(len(service.workers), gpus))
        await_empty(service)
        measure_round(service, "warm up", CLIENTS * gpus, gpus=gpus)
        report.rounds += [
            measure_round(service, "all", plan.jobs, gpus=gpus, sleep_ms=sleep_ms)
            for sleep_ms in plan.sleeps_ms
        ]
    report.resident_mb = service.resident_mb()
    before = service.usage()
    time.sleep(plan.idle_seconds)
    spent = service.usage() - before
    report.idle = {kind: each / plan.idle_seconds for kind, each in spent.processor.items()}


# -- what grows with the queue ---------------------------------------------------------------------


@dataclass
class Queue:
    """Jobs of one owner that wait, without their pictures, and what one more call costs."""

    service: PretendService
    owner: str
    size: int = 0
    base_bytes: int = 0
    last: Job | None = None

    def fill(self, size: int) -> None:
        """Record and dispatch jobs until so many wait."""
        runtime = self.service.runtime
        if not self.base_bytes:
            self.base_bytes = self._used()
        while self.size < size:
            self.last = self.add()
        assert runtime.job_store.counts()[Status.QUEUED] >= size  # noqa: S101 - else all is wrong

    def add(self) -> Job:
        """Record a job as the API does, and send its message."""
        now, task_id = time.time(), new_task_id()
        runtime = self.service.runtime
        queue = runtime.router.choose(MODEL)
        job = Job(task_id, MODEL, queue, original_key(task_id), now, now + 1e6)
        job = job.evolve(owner=self.owner, deadline=now + 1e6, priority=Priority.NORMAL)
        accepted = runtime.job_store.create(job).job
        runtime.dispatcher.send(accepted)
        self.size += 1
        return accepted

    def take(self) -> None:
        """Claim the next job and end it, as a worker does."""
        store, worker = self.service.runtime.job_store, f"gpu0@{HOST}"
        message = Message(f"{model_queue(MODEL)}|{int(Priority.NORMAL)}", 0)
        token = lease_token(worker, 1)
        assert self.last is not None  # noqa: S101 - it was filled
        turn = store.claim_next(self.last.task_id, message, token=token, worker=worker, model=MODEL)
        store.finish(turn.task_id, token=token, status=Status.SUCCEEDED, result_key="none")
        self.size -= 1

    def position(self) -> None:
        """Ask for the place of the last job."""
        assert self.last is not None  # noqa: S101 - it was filled
        self.service.runtime.job_store.position(self.last)

    def bytes_each(self) -> float:
        """Return the memory of Redis for one job."""
        return (self._used() - self.base_bytes) / self.size

    def _used(self) -> int:
        return int(self.service.redis.info("memory")["used_memory"])


def _get(service: PretendService, path: str) -> None:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
    connection.request("GET", path, headers={"X-API-Key": service.key})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{path}: {text!r}")


def cost_ms(
    service: PretendService, kinds: Sequence[str], call: Callable[[], object], calls: int = _CALLS
) -> dict[str, float]:
    """Return the processor milliseconds that a call costs each kind of process."""
    call()
    before = {kind: own_seconds(service.pids[kind]) for kind in kinds}
    for _ in range(calls):
        call()
    return {kind: (own_seconds(service.pids[kind]) - before[kind]) / calls * 1000 for kind in kinds}


def measure_growth(service: PretendService, plan: Plan, report: Report) -> None:
    """Measure calls with more and more jobs in the queue."""
    owner = service.runtime.api_keys.find(service.key)
    assert owner is not None  # noqa: S101 - the service has just made it
    queue = Queue(service, owner.id)
    for size in plan.queued:
        queue.fill(size)
        cells = {"Redis' memory, bytes a job": queue.bytes_each()}
        cells |= dict(_costs(service, queue))
        before = service.usage()
        time.sleep(plan.idle_seconds)
        spent = (service.usage() - before).processor
        for kind in ("Redis", "I/O worker"):
            name = f"idle, {kind}, ms of processor a second"
            cells[name] = spent[kind] / plan.idle_seconds * 1000
        for name, value in cells.items():
            report.growth.setdefault(name, {})[size] = value


def _costs(service: PretendService, queue: Queue) -> Iterator[tuple[str, float]]:
    calls: Iterable[tuple[str, tuple[str, ...], Callable[[], object]]] = (
        ("record and dispatch one", ("Redis",), queue.add),
        ("claim and end one", ("Redis",), queue.take),
        (
            "choose a queue",
            ("Redis",),
            partial(service.runtime.router.choose, MODEL),
        ),
        ("position of the last", ("Redis",), queue.position),
        ("/metrics", ("Redis", "API"), partial(_get, service, "/metrics")),
        ("/api/v1/tasks", ("Redis", "API"), partial(_get, service, "/api/v1/tasks")),
    )
    for name, kinds, call in calls:
        for kind, ms in cost_ms(service, kinds, call).items():
            yield f"{name}, {kind}, ms of processor", ms


def measure_routing(service: PretendService, plan: Plan, report: Report) -> None:
    """Measure the choice of a queue among more and more workers, while none has a job."""
    registry, model = service.runtime.registry, "routed"
    for number in plan.workers:
        for index in range(number):
            name = f"gpu{index}@measured"
            queue = f"gpu.measured.{index}"
            registry.record_heartbeat(name, queue=queue, model=model)
            registry.mark_ready(name, 600, model=model, pid=1)
        choose = partial(service.runtime.router.choose, model)
        cost = cost_ms(service, ("Redis",), choose)["Redis"]
        name = "choose an idle worker's queue, Redis, ms of processor"
        report.routing.setdefault(name, {})[number] = cost


# -- the tables ------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """Return the tables, as pages of the docs have them."""
    kinds = list(dict.fromkeys(kind for each in report.rounds for kind in each.processor_ms))
    head = ["", "GPUs", "model, ms", "jobs a second *", "busy *", "ms of processor a job", *kinds]
    head += ["Redis: commands", "round trips", "kB"]
    rows = [
        [
            each.what,
            f"{each.gpus or ''}",
            f"{each.sleep_ms:g}" if each.gpus else "",
            f"{each.a_second:.0f}",
            f"{each.busy:.0%}" if each.busy else "",
            f"{each.total_ms:.1f}",
            *(_cell(each.processor_ms.get(kind)) for kind in kinds),
            f"{each.commands:.0f}",
            f"{each.round_trips:.1f}",
            f"{each.redis_bytes / 1000:.1f}",
        ]
        for each in report.rounds
    ]
    most = max((each for each in report.rounds if each.gpus), key=lambda each: each.a_second)
    idle = [[kind, f"{share:.2%}"] for kind, share in report.idle.items()]
    resident = [[kind, f"{size:.0f}"] for kind, size in report.resident_mb.items()]
    parts = [
        f"{report.machine}, rmbg-queue {report.version}. `*`: by the clock.",
        _table(head, rows),
        f"Most: {most.a_second:.0f} jobs a second *: {most.gpus} GPUs at {most.sleep_ms:g} ms.",
        _growth("jobs queued", report.growth),
        _growth("workers", report.routing),
        _table(["idle", "of a core"], idle),
        _table(["resident", "MB"], resident),
    ]
    return "\n\n".join(parts)


def _growth(what: str, growth: Mapping[str, Mapping[int, float]]) -> str:
    numbers = sorted({number for values in growth.values() for number in values})
    head = [what, *(f"{number:,}" for number in numbers), "slope"]
    rows = [
        [name, *(_cell(values[number]) for number in numbers), f"{slope(values):+.2f}"]
        for name, values in growth.items()
    ]
    return _table(head, rows)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"  # noqa: PLR2004 - three digits


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(plan: Plan) -> Report:
    """Start the service, and measure."""
    # A line for each job would be part of what is measured.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    report = Report(machine())
    with (
        tempfile.TemporaryDirectory(prefix="rmbg-bench-") as folder,
        pretend_service(Path(folder)) as service,
    ):
        measure_rounds(service, plan, report)
        service.stop_workers()
        measure_growth(service, plan, report)
        measure_routing(service, plan, report)
    return report


def run(*, quick: bool, output: Path | None) -> None:
    """Measure, print the tables, and write all figures as JSON to a file, if one is named."""
    report = measure(QUICK if quick else Plan())
    print(markdown(report))
    if output is not None:
        output.write_text(report.to_json() + "\n")
