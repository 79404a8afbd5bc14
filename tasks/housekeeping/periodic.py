"""The I/O worker's periodic work: reconciling, retention, duplicates and due webhooks.

Every I/O worker runs all of it. Locks in Redis, or Lua scripts of which only one caller succeeds,
prevent that a step is done twice.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from celery import bootsteps

from tasks.errors import TaskError
from tasks.housekeeping.clock_check import ClockCheck
from tasks.housekeeping.reconcile import RECONCILE_SECONDS, Reconciler
from tasks.housekeeping.retention import SWEEP_SECONDS, OrphanSweep, RetentionSweeper
from tasks.jobs.dedup import DuplicateCompleter
from tasks.jobs.routing import is_io_worker
from tasks.jobs.store import JobWatcher
from tasks.quotas import CORRECT_SECONDS
from tasks.runtime import Runtime, runtime_of
from tasks.webhooks.sending import MAX_PER_HOST

#: How long a duplicate waits after its primary has ended.
_DUPLICATES_SECONDS: Final = 0.2
#: How long a delivery of a job that has ended waits for its message.
_WEBHOOKS_SECONDS: Final = 0.1
#: The same while nothing has been done for a while, for what no end of a job announces: a replay, a
#: retry, and an end that went unnoticed.
_IDLE_SECONDS: Final = 1.0
#: After work, more is looked for at the short interval for so long: it makes room in a busy queue,
#: or is due soon.
_ACTIVE_SECONDS: Final = 5.0
#: The pause after a failure, if it is longer than the interval.
_FAILURE_SECONDS: Final = 2.0
#: How long a shutdown waits for the runs that it meets.
_STOP_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Periodic:
    """A piece of work that is repeated at an interval."""

    #: Names its log events and its thread.
    name: str
    #: Pause between the end of one run and the start of the next.
    seconds: float
    #: Returns whether it found work, if `watcher` is given.
    run: Callable[[], object]
    #: Ends the longer pause of work that waits for the ends of jobs; None if it does not.
    watcher: JobWatcher | None = None

    def run_until(self, stopped: threading.Event) -> None:
        """Repeat the run until `stopped` is set; no failure of a run ends it."""
        if self.watcher is None:
            self._repeat(stopped, stopped.wait)
            return
        with self.watcher.watch("*") as wait:
            self._repeat(stopped, wait)

    def _repeat(self, stopped: threading.Event, wait: Callable[[float], bool]) -> None:
        pause, active_until = self.seconds, time.monotonic() + _ACTIVE_SECONDS
        while not stopped.wait(pause):
            if self.watcher is not None and time.monotonic() > active_until:
                wait(_IDLE_SECONDS)
            pause = self.seconds
            try:
                if self.run():
                    active_until = time.monotonic() + _ACTIVE_SECONDS
            except TaskError as error:
                _log.warning(f"{self.name}.unavailable", reason=str(error))
                pause = max(pause, _FAILURE_SECONDS)
            except Exception:  # noqa: BLE001 - see above
                _log.exception(f"{self.name}.failed")
                pause = max(pause, _FAILURE_SECONDS)


def periodic_work(runtime: Runtime) -> tuple[Periodic, ...]:
    """Return all periodic work of an I/O worker."""
    client, job_store, object_store = runtime.redis, runtime.job_store, runtime.object_store
    dispatcher, router, uploads = runtime.dispatcher, runtime.router, runtime.uploads
    reconciler = Reconciler(client, job_store, dispatcher, runtime.registry, router)
    sweeper = RetentionSweeper(
        client,
        job_store,
        runtime.eraser,
        uploads,
        runtime.batches,
        OrphanSweep(
            job_store,
            uploads.store,
            object_store,
            uploads.seconds,
            charge_found=runtime.quotas.charge_found,
        ),
        ClockCheck(client).trusted_time,
    )
    completer = DuplicateCompleter(client, job_store, object_store, dispatcher, router)
    return (
        Periodic("reconciler", RECONCILE_SECONDS, reconciler.run_once),
        Periodic("retention", SWEEP_SECONDS, sweeper.run_once),
        Periodic("quotas", CORRECT_SECONDS, runtime.quotas.correct),
        Periodic("duplicates", _DUPLICATES_SECONDS, completer.run_once, runtime.watcher),
        Periodic(
            "webhooks", _WEBHOOKS_SECONDS, runtime.webhook_dispatcher.run_once, runtime.watcher
        ),
    )


class HousekeepingStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery publishes no types
    """Runs the periodic work of an I/O worker, each piece in a thread of its own."""

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - celery's signature
        super().__init__(worker, **options)
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def include_if(self, worker: Any) -> bool:  # noqa: ANN401 - celery's signature
        """Run on I/O workers only; a model worker has one job."""
        return is_io_worker(worker.app)

    def start(self, worker: Any) -> None:  # noqa: ANN401 - celery's signature
        """Start the threads."""
        if worker.concurrency <= MAX_PER_HOST:
            advice = "start the worker with -c 32"
            _log.warning("webhooks.few_threads", threads=worker.concurrency, advice=advice)
        runtime = runtime_of(worker.app)
        for periodic in periodic_work(runtime):
            thread = threading.Thread(
                target=periodic.run_until, args=(self._stopped,), name=periodic.name, daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - celery's signature
        """Start no more runs, and give those that run a moment; each may be cut short."""
        self._stopped.set()
        end = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))

    terminate = stop
