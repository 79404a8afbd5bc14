"""The ZIP archive of a batch, written as it is sent; each file is named after its input."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from api.errors import ApiError
from api.file_names import numbered_names
from api.services import Services
from tasks.audit import Access, audit_access
from tasks.jobs.batches import Batch


class _Sink(io.RawIOBase):
    """Buffers what `zipfile` writes until it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview[int]") -> int:  # type: ignore[override] # narrower than the base's
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """Return and forget what was written since the last call."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


def stream_zip(files: Iterable[tuple[str, datetime, Iterator[bytes]]]) -> Iterator[bytes]:
    """Yield a ZIP archive of files, each with its name, time and bytes, as it is written.

    At most one chunk of one file is in memory.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, when, pieces in files:
            entry = zipfile.ZipInfo(name, when.astimezone(UTC).timetuple()[:6])
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w") as target:
                for piece in pieces:
                    target.write(piece)
                    yield sink.take()
    yield sink.take()


def stream_archive(batch: Batch, services: Services, request_id: str) -> Iterator[bytes]:
    """Return a batch's cutouts as a ZIP archive, written as it is read.

    Raises:
        ApiError: `batch_empty`: none of its items succeeded.
    """
    jobs = {job.task_id: job for job in services.runtime.job_store.get_many(batch.task_ids)}
    done = [
        (item, jobs[item.task_id])
        for item in batch.items
        if item.task_id in jobs and jobs[item.task_id].result_key
    ]
    if not done:
        raise ApiError("batch_empty")
    audit_access(Access.RESULT, [job for _, job in done], request_id=request_id)
    names = numbered_names((item.name or job.file_stem, job.format or "") for item, job in done)
    return stream_zip(
        (
            name,
            datetime.fromtimestamp(job.finished_at or job.created_at, UTC),
            services.runtime.object_store.chunks(str(job.result_key)),
        )
        for name, (_, job) in zip(names, done, strict=True)
    )
