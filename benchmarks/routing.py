"""Simulate the routing of jobs to many GPUs of mixed speed, some of which fail.

The simulation has a clock of its own and moves jobs through a Valkey by the service's own code:
records, choice of a queue, turns, claims, crashes and the reconciler are the real ones. What is
simulated are the clients, Celery's lists as workers take from them, and the time that a picture
takes. So an hour passes in seconds, and a change of the routing rules shows at once.

python -m benchmarks.routing             # prints the tables, and writes the chart into the docs
python -m benchmarks.routing --measure   # and runs the same with 8 real workers, whose model sleeps
"""

import heapq
import http.client
import itertools
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import structlog
from redis import Redis

from benchmarks.charts import Line, line_chart
from benchmarks.control import FORM_HEADERS, form
from benchmarks.pretend_service import HOST, MODEL, PretendService, pretend_service
from benchmarks.tables import table
from deploy.bench.processes import machine
from tasks.housekeeping.missing_messages import dispatch_seq_of, list_key
from tasks.housekeeping.reconcile import RECONCILE_SECONDS, Reconciler
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.jobs.routing import (
    JobDispatcher,
    Router,
    RoutingMode,
    gpu_queue,
    model_queue,
    task_id_of_message,
)
from tasks.jobs.store import ClaimOutcome, JobStore, Message, lease_holder, lease_token
from tasks.object_store import original_key
from tasks.redis_client import connect
from tasks.redis_keys import ALIVE_WORKERS, lease_key
from tasks.worker_registry import WorkerRegistry
from tests.support.servers import embedded_valkey

CHART: Final = Path(__file__).parents[1] / "docs" / "pictures" / "routing.svg"
#: Weight of the newest job in a worker's mean, as the worker has it.
_NEWEST_WEIGHT: Final = 0.3
_LEVEL: Final = int(Priority.NORMAL)
_FAR: Final = 1e9


@dataclass(frozen=True)
class Failure:
    """A worker's process with the model dies."""

    at: float
    gpu: int
    #: Seconds until a new one is ready.
    down: float


@dataclass(frozen=True)
class Scenario:
    """What happens to a fleet of GPUs.

    Attributes:
        seconds: that a picture takes, of each GPU.
        arrivals: of jobs, in seconds from the beginning.
        failures: of processes.
        jitter: a picture takes so much more or less than it should, as a share.
    """

    seconds: tuple[float, ...]
    arrivals: tuple[float, ...]
    failures: tuple[Failure, ...] = ()
    jitter: float = 0.1
    mode: RoutingMode = "gpu"
    seed: int = 1

    @property
    def capacity(self) -> float:
        """Jobs a second that the GPUs can do."""
        return sum(1 / each for each in self.seconds)


def fleet(number: int, seconds: Sequence[float] = (0.5, 0.75, 1.0, 1.5)) -> tuple[float, ...]:
    """Return the seconds of so many GPUs, of each kind as many as of the others."""
    return tuple(itertools.islice(itertools.cycle(seconds), number))


def arrivals(rate: float, number: int, seed: int = 1) -> tuple[float, ...]:
    """Return when so many jobs arrive that do not know of each other, at a rate a second."""
    drawn = random.Random(seed)  # noqa: S311 - no secret
    return tuple(itertools.accumulate(drawn.expovariate(rate) for _ in range(number)))


@dataclass(frozen=True)
class Done:
    """One job that has ended, in seconds from the beginning."""

    arrived: float
    started: float
    ended: float
    gpu: int

    @property
    def took(self) -> float:
        """Seconds from submission to the result."""
        return self.ended - self.arrived


@dataclass
class _Gpu:
    """A simulated worker."""

    index: int
    name: str
    queue: str
    up: bool = True
    running: str = ""
    token: str = ""
    #: What its parent process has taken and its child has not ended.
    held: tuple[str, str] | None = None
    mean: float | None = None
    pid: int = 1


class _Sender:
    """Stands for Celery where a message is sent: it goes to the list where Celery puts it."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        #: Messages by list, so that no empty list is asked for one.
        self.waiting: Counter[str] = Counter()

    def send_task(
        self,
        _task: str,
        *,
        task_id: str,
        queue: str,
        priority: int,
        headers: Mapping[str, Any],
        **_: object,
    ) -> None:
        """Put a message on its list."""
        message = {"headers": {"id": task_id, **headers}}
        self._client.lpush(list_key(f"{queue}|{priority}"), json.dumps(message))
        self.waiting[f"{queue}|{priority}"] += 1

    def take(self, name: str) -> str | None:
        """Take the next message of a list; None if there is none."""
        if not self.waiting[name]:
            return None
        self.waiting[name] -= 1
        return cast("str", self._client.rpop(list_key(name)))

    def give_back(self, name: str, text: str) -> None:
        """Return a message to its list, as the next one there."""
        self._client.rpush(list_key(name), text)
        self.waiting[name] += 1


class Simulation:
    """Runs a scenario on an empty Redis."""

    def __init__(self, client: Redis, scenario: Scenario) -> None:
        self.scenario = scenario
        self.done: list[Done] = []
        self._client = client
        self._start = self._now = time.time()
        self._store = JobStore(client, clock=self._clock)
        self._registry = WorkerRegistry(client, clock=self._clock)
        self._router = Router(client, scenario.mode, self._clock)
        self._sender = _Sender(client)
        self._dispatcher = JobDispatcher(cast("Any", self._sender), self._store)
        self._reconciler = Reconciler(
            client, self._store, self._dispatcher, self._registry, self._router, clock=self._clock
        )
        self._random = random.Random(scenario.seed)  # noqa: S311 - no secret
        self._gpus = [
            _Gpu(index, f"gpu{index}@sim", gpu_queue("sim", index))
            for index in range(len(scenario.seconds))
        ]
        #: Those that wait for a message; who has waited longest gets the next one.
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._arrived: dict[str, float] = {}
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = itertools.count()

    def run(self) -> list[Done]:
        """Run until all jobs have ended; return them in the order of their ends."""
        for gpu in self._gpus:
            self._registry.record_heartbeat(gpu.name, queue=gpu.queue, model=MODEL)
            self._client.zadd(ALIVE_WORKERS, {gpu.name: self._start + _FAR})
            self._become_ready(gpu)
        for at in self.scenario.arrivals:
            self._plan(at, "arrive", None)
        for failure in self.scenario.failures:
            self._plan(failure.at, "fail", failure)
        self._plan(RECONCILE_SECONDS, "reconcile", None)
        while len(self.done) < len(self.scenario.arrivals):
            at, _, kind, what = heapq.heappop(self._events)
            self._now = self._start + at
            getattr(self, f"_on_{kind}")(what)
            self._hand_out()
        return self.done

    def _clock(self) -> float:
        return self._now

    def _plan(self, at: float, kind: str, what: object) -> None:
        heapq.heappush(self._events, (at, next(self._order), kind, what))

    def _since(self) -> float:
        return self._now - self._start

    # -- events --------------------------------------------------------------------------------

    def _on_arrive(self, _: None) -> None:
        task_id = new_task_id()
        queue = self._router.choose(MODEL)
        job = Job(task_id, MODEL, queue, original_key(task_id), self._now, self._now + _FAR)
        self._arrived[task_id] = self._since()
        self._dispatcher.send(self._store.create(job).job)

    def _on_reconcile(self, _: None) -> None:
        self._reconciler.run_once()
        self._plan(self._since() + RECONCILE_SECONDS, "reconcile", None)

    def _on_end(self, ended: tuple[_Gpu, str, str, float]) -> None:
        gpu, task_id, token, began = ended
        if gpu.token != token:
            return  # it has died meanwhile
        if self._store.finish(task_id, token=token, status=Status.SUCCEEDED, result_key="none"):
            job = Done(self._arrived[task_id], began, self._since(), gpu.index)
            self.done.append(job)
        took = self._since() - began
        gpu.mean = took if gpu.mean is None else gpu.mean + _NEWEST_WEIGHT * (took - gpu.mean)
        self._registry.record_result(gpu.name, gpu.mean)
        gpu.running, gpu.token, gpu.held = "", "", None
        self._idle[gpu.index] = None

    def _on_fail(self, failure: Failure) -> None:
        gpu = self._gpus[failure.gpu]
        if not gpu.up:
            return
        gpu.up = False
        self._idle.pop(gpu.index, None)
        self._registry.mark_not_ready(gpu.name)
        if gpu.running:
            self._store.crash(gpu.running, holder=lease_holder(gpu.name, gpu.pid))
        gpu.running, gpu.token = "", ""
        # Celery returns the message of a child that died to its list, as the next one there.
        if gpu.held is not None:
            self._sender.give_back(*gpu.held)
            gpu.held = None
        self._plan(self._since() + failure.down, "ready", gpu)

    def _on_ready(self, gpu: _Gpu) -> None:
        gpu.up, gpu.pid = True, gpu.pid + 1
        self._become_ready(gpu)

    def _become_ready(self, gpu: _Gpu) -> None:
        self._registry.mark_ready(gpu.name, _FAR, model=MODEL, pid=gpu.pid)
        self._idle[gpu.index] = None

    # -- workers -------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Let each idle worker take a message, from its own queue before the shared one."""
        for index in list(self._idle):
            gpu = self._gpus[index]
            while index in self._idle and self._take(gpu):
                self._claim(gpu)

    def _take(self, gpu: _Gpu) -> bool:
        for queue in (gpu.queue, model_queue(MODEL)):
            name = f"{queue}|{_LEVEL}"
            text = self._sender.take(name)
            if text is not None:
                gpu.held = name, text
                return True
        return False

    def _claim(self, gpu: _Gpu) -> None:
        """Begin the job whose turn it is, as a worker's child does."""
        assert gpu.held is not None  # noqa: S101 - it has taken a message
        name, text = gpu.held
        message = json.loads(text)
        token = lease_token(gpu.name, gpu.pid)
        turn = self._store.claim_next(
            task_id_of_message(message["headers"]["id"]),
            Message(name, dispatch_seq_of(message)),
            token=token,
            worker=gpu.name,
            model=MODEL,
        )
        if turn.claim is not ClaimOutcome.CLAIMED:
            gpu.held = None
            return
        # A lease ends by Redis's clock, which is not that of the simulation.
        self._client.persist(lease_key(turn.task_id))
        self._registry.update(gpu.name, running=1)
        gpu.running, gpu.token = turn.task_id, token
        del self._idle[gpu.index]
        share = self._random.uniform(1 - self.scenario.jitter, 1 + self.scenario.jitter)
        took = self.scenario.seconds[gpu.index] * share
        self._plan(self._since() + took, "end", (gpu, turn.task_id, token, self._since()))


# -- the same with real workers --------------------------------------------------------------------


def measure(service: PretendService, scenario: Scenario) -> tuple[list[Done], list[Failure]]:
    """Run a scenario with real workers, which have started.

    Returns:
        The jobs, and the failures with the time that a worker really took to be ready again.
    """
    for index, seconds in enumerate(scenario.seconds):
        service.set_sleep(index, seconds * 1000)
    known = set(service.runtime.job_store.ids(Status.SUCCEEDED))
    start = time.time() + 1
    failed: list[Failure] = []
    threads = [
        threading.Thread(target=_fail, args=(service, start, each, failed))
        for each in scenario.failures
    ]
    left = iter(scenario.arrivals)
    threads += [threading.Thread(target=_submit, args=(service, start, left)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while service.pending():
        time.sleep(0.1)
    ids = [each for each in service.runtime.job_store.ids(Status.SUCCEEDED) if each not in known]
    jobs = service.runtime.job_store.get_many(ids)
    done = [
        Done(
            job.created_at - start,
            (job.started_at or start) - start,
            (job.finished_at or start) - start,
            int(str(job.worker).removeprefix("gpu").partition("@")[0]),
        )
        for job in jobs
    ]
    return sorted(done, key=lambda each: each.ended), failed


def _submit(service: PretendService, start: float, left: Iterator[float]) -> None:
    body = form()
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
    headers = {**FORM_HEADERS, "X-API-Key": service.key}
    for at in left:
        time.sleep(max(0.0, start + at - time.time()))
        connection.request("POST", "/api/v1/remove-bg", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.ACCEPTED:
            raise RuntimeError(f"a picture was refused with {answer.status}")
    connection.close()


def _fail(service: PretendService, start: float, failure: Failure, failed: list[Failure]) -> None:
    time.sleep(max(0.0, start + failure.at - time.time()))
    name, registry = f"gpu{failure.gpu}@{HOST}", service.runtime.registry
    before, _ = registry.last_answer(name)
    service.kill_child(failure.gpu)
    began = time.time()
    while registry.last_answer(name)[0] in {0, before}:
        time.sleep(0.05)
    failed.append(replace(failure, down=time.time() - began))


# -- figures ---------------------------------------------------------------------------------------


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value below which that share of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def figures(done: Sequence[Done]) -> list[str]:
    """Return seconds from submission to result: median, 95th and 99th percentile; and the end."""
    took = [each.took for each in done]
    parts = [quantile(took, share) for share in (0.5, 0.95, 0.99)]
    return [f"{each:.2f}" for each in (*parts, max(each.ended for each in done))]


def simulate(url: str, scenario: Scenario) -> list[Done]:
    """Run a scenario in a database that is emptied first."""
    with connect(url) as client:
        client.flushdb()
        return Simulation(client, scenario).run()


_EIGHT_SECONDS: Final = fleet(8, (2.0, 3.0, 4.0, 6.0))
#: Eight GPUs of four speeds at four fifths of what they can do, two of which fail, one twice. So
#: slow that what two cores add to a picture hardly counts.
EIGHT: Final = Scenario(
    _EIGHT_SECONDS,
    arrivals(0.8 * sum(1 / each for each in _EIGHT_SECONDS), 150),
    (Failure(12, 0, 6), Failure(30, 5, 6), Failure(48, 0, 6)),
)


def study(url: str) -> list[tuple[str, ...]]:
    """Return rows for fleets of several sizes and loads."""
    rows = []
    for number, load, mode in (
        *itertools.product((1, 8, 64), (0.8, 0.95), ("gpu",)),
        *itertools.product((8,), (0.8, 0.95), ("shared",)),
    ):
        scenario = Scenario(fleet(number), (), mode=cast("RoutingMode", mode))
        jobs = arrivals(load * scenario.capacity, max(400, 10 * number))
        done = simulate(url, replace(scenario, arrivals=jobs))
        waited = statistics.mean(each.started - each.arrived for each in done)
        rows.append((f"{number}", f"{load:.0%}", mode, *figures(done)[:3], f"{waited:.2f}"))
    return rows


def chart(simulated: Sequence[Done], measured: Sequence[Done]) -> str:
    """Return the chart of both: jobs that have ended, by time."""
    lines = [
        Line(name, [(each.ended, number) for number, each in enumerate(done, 1)])
        for name, done in (("simulated", simulated), ("measured", measured))
        if done
    ]
    marks = {f"GPU {each.gpu} fails": each.at for each in EIGHT.failures}
    return line_chart(lines, x="seconds", y="jobs ended", marks=list(marks.items()))


def main(arguments: Sequence[str]) -> None:
    """Print the tables and write the chart."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    scenario, measured = EIGHT, list[Done]()
    with tempfile.TemporaryDirectory(prefix="rmbg-bench-") as name:
        folder = Path(name)
        if "--measure" in arguments:
            with pretend_service(folder / "service") as service:
                service.start_workers(*range(len(EIGHT.seconds)))
                measured, failed = measure(service, EIGHT)
            own = statistics.mean(
                each.ended - each.started - EIGHT.seconds[each.gpu] for each in measured
            )
            # What the control plane adds to each picture, and how long a worker takes to start, are
            # this machine's.
            seconds = tuple(each + own for each in EIGHT.seconds)
            scenario = replace(EIGHT, seconds=seconds, failures=tuple(failed))
        with embedded_valkey(folder / "valkey") as url:
            began = time.perf_counter()
            simulated = simulate(url, scenario)
            took = time.perf_counter() - began
            rows: list[tuple[str, ...]] = [("simulated", *figures(simulated))]
            if measured:
                rows += [("measured", *figures(measured))]
                CHART.write_text(chart(simulated, measured))
            print(machine())
            head = (
                f"8 GPUs, {len(EIGHT.arrivals)} jobs",
                "p50, s",
                "p95, s",
                "p99, s",
                "last end, s",
            )
            table(head, rows, title=f"simulated in {took:.1f} s")
            columns = ("GPUs", "load", "routing", "p50, s", "p95, s", "p99, s", "mean wait, s")
            table(columns, study(url), title="from submission to result")


if __name__ == "__main__":
    main(sys.argv[1:])
