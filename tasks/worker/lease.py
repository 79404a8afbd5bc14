"""The lease keeper: renew a job's lease while its worker runs it."""

import threading
from types import TracebackType
from typing import Self

import structlog

from tasks.errors import LeaseLostError, QueueUnavailableError
from tasks.jobs.store import RENEW_SECONDS, JobStore

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews a lease from a thread until the `with` block ends."""

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
        """Renew the lease, and raise `LeaseLostError` if it is lost; called between two stages.

        So a job that was canceled or erased ends at its next stage.
        """
        self._renew()
        if self._lost.is_set():
            raise LeaseLostError("The lease expired, or the job was canceled, while it ran.")

    def _run(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self._lost.is_set():
            self._renew()

    def _renew(self) -> None:
        try:
            kept = self._store.renew(self._task_id, token=self._token)
        except QueueUnavailableError:
            # Redis may be back before the lease expires: the final write decides.
            _log.warning("lease.renewal_failed", task_id=self._task_id)
            return
        if not kept:
            self._lost.set()
