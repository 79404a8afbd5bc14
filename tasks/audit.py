"""The audit log: who read or erased which pictures, and what operators changed.

It is in the process's log or in a file of its own.
"""

import fcntl
import logging
import os
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import IO, Final

import structlog

from tasks.api_keys import Owner
from tasks.jobs.job import Job

_LOGGER: Final = "audit"
#: Most tasks that a line names, so that it stays below 4 kB; a request may have several lines.
_TASKS_IN_A_LINE: Final = 100
#: Size at which a new file is begun, and how many full ones are kept: 550 MB at most.
_FILE_BYTES: Final = 50 * 10**6
_KEPT_FILES: Final = 10

_log = structlog.get_logger(_LOGGER)


class Access(StrEnum):
    """What was done with tasks' pictures: the event of the audit log."""

    #: A client was redirected to the result, or got it.
    RESULT = "audit.result_read"
    #: A client got the original.
    ORIGINAL = "audit.original_read"
    #: Presigned URLs of the original, the result or both were issued.
    ADDRESSES = "audit.addresses_issued"
    #: The pictures and the record were erased.
    ERASED = "audit.erased"


class Act(StrEnum):
    """What an operator changed by the API: the event of the audit log."""

    #: A worker takes no more jobs.
    DRAINED = "audit.worker_drained"
    #: A worker takes jobs again.
    UNDRAINED = "audit.worker_undrained"
    #: A failed or canceled job was queued again.
    REQUEUED = "audit.task_requeued"
    #: A job was taken off the dead letters.
    DEAD_LETTER_DROPPED = "audit.dead_letter_dropped"
    #: A webhook is sent again.
    REPLAYED = "audit.webhook_replayed"
    #: A webhook was given up.
    DELIVERY_DROPPED = "audit.webhook_dropped"


def audit_act(act: Act, operator: Owner, *, request_id: str, **facts: str) -> None:
    """Log what an operator changed; `facts` name it."""
    who = {"operator": operator.name, "owner": operator.id}
    _log.info(act.value, **who, request_id=request_id, **facts)


def audit_access(access: Access, jobs: Sequence[Job], *, request_id: str, **facts: str) -> None:
    """Log what one request did with the pictures of tasks of one owner.

    A line names one task as `task_id`, several as `task_ids`. `facts` hold no URL that opens them.
    """
    for start in range(0, len(jobs), _TASKS_IN_A_LINE):
        ids = [job.task_id for job in jobs[start : start + _TASKS_IN_A_LINE]]
        named = {"task_id": ids[0]} if len(ids) == 1 else {"task_ids": ids}
        _log.info(access.value, owner=jobs[0].owner, request_id=request_id, **named, **facts)


def audit_to_file(path: Path, formatter: logging.Formatter) -> None:
    """Write the audit log to a file instead of the process's log, whatever that one's level.

    Raises:
        OSError: the file cannot be written.
    """
    logger = logging.getLogger(_LOGGER)
    handler = AuditFile(path)
    handler.setFormatter(formatter)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class AuditFile(WatchedFileHandler):
    """Appends to a file that several processes share, and begins a new one when it is full.

    The full ones are `<name>.1`, the latest, to `<name>.10`. A tool such as logrotate may rename
    them too. While the file cannot be written, the lines go to the process's log.
    """

    def __init__(
        self, path: Path, *, file_bytes: int = _FILE_BYTES, kept_files: int = _KEPT_FILES
    ) -> None:
        super().__init__(path, encoding="utf-8")
        self._path = Path(path)
        self._file_bytes = file_bytes
        self._kept_files = kept_files

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, at the beginning of a new file if the present one is full."""
        try:
            if self._stream().tell() >= self._file_bytes:
                self._begin_new_file()
        except (OSError, ValueError):
            self.handleError(record)
        else:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of the library
        """Hand a line that could not be written to the process's log."""
        logging.getLogger().handle(record)

    def _begin_new_file(self) -> None:
        """Rename the files, unless another process has just done so."""
        with self._path.with_name(f"{self._path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._stream().tell() < self._file_bytes:
                return
            names = [self._path, *(self._kept(number) for number in range(1, self._kept_files + 1))]
            for old, new in reversed(list(pairwise(names))):
                if old.exists():
                    old.replace(new)
            self._stream()

    def _stream(self) -> IO[str]:
        """Return the file of that name as it is now, at its end."""
        self.reopenIfNeeded()
        if self.stream is None:  # it could not be opened the last time
            self.stream = self._open()
            self._statstream()
        self.stream.seek(0, os.SEEK_END)
        return self.stream

    def _kept(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
