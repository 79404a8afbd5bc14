"""Keeps a job's lease alive while its worker is busy with it."""

import threading
from types import TracebackType
from typing import Self

import structlog

from tasks.errors import LeaseLostError, QueueUnavailableError
from tasks.jobs.store import RENEW_SECONDS, JobStore

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews a lease from a thread, for as long as the `with` block runs."""

    def __init__(self, store: JobStore, task_id: str, token: str) -> None:
        self._store = store
        self._task_id = task_id
        self._token = token
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raise `LeaseLostError` once the lease is gone; called between the stages of a job.

        Redis is asked each time, so that a job that was canceled or erased goes no further.
        """
        self._renew()
        if self._lost.is_set():
            raise LeaseLostError("The lease ran out, or the job was canceled, while it ran.")

    def _run(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self._lost.is_set():
            self._renew()

    def _renew(self) -> None:
        try:
            kept = self._store.renew(self._task_id, token=self._token)
        except QueueUnavailableError:
            # Redis may be back before the lease has run out: the final write decides.
            _log.warning("lease.renewal_failed", task_id=self._task_id)
            return
        if not kept:
            self._lost.set()
