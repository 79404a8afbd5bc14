"""How a batch looks from outside, in the API's answers and in webhooks alike."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from tasks.batches.record import Batch, Item
from tasks.jobs import Job, Status
from tasks.presentation import error_data, instant, visible_status

_UNDONE: Final = (Status.QUEUED.value, Status.PROCESSING.value)


def batch_data(batch: Batch, jobs: Mapping[str, Job], now: float) -> dict[str, Any]:
    """A batch's data.

    Args:
        batch: the record.
        jobs: those of its items that are still known, by id.
        now: unix time.
    """
    items = [_item(number, each, jobs, now) for number, each in enumerate(batch.items)]
    counts = Counter(item["status"] for item in items)
    undone = sum(counts[status] for status in _UNDONE)
    total = len(items)
    return {
        "batch_id": batch.batch_id,
        "status": _status(batch, now),
        "total": total,
        "counts": {status.value: counts[status.value] for status in Status},
        "progress": round((total - undone) / total, 4) if total else 1.0,
        "metadata": batch.metadata,
        "created_at": instant(batch.created_at),
        "completed_at": instant(batch.completed_at),
        "expires_at": instant(batch.expires_at),
        "items": items,
    }


def _status(batch: Batch, now: float) -> str:
    if batch.expires_at <= now:
        return "expired"
    return "processing" if batch.completed_at is None else "completed"


def _item(number: int, item: Item, jobs: Mapping[str, Job], now: float) -> dict[str, Any]:
    job = jobs.get(item.task_id or "")
    unknown = Status.FAILED.value if item.error else "erased"
    return {
        "index": number,
        "name": item.name,
        "task_id": item.task_id,
        "status": visible_status(job, now) if job else unknown,
        "error": error_data(item.error or (job.error if job else None)),
    }
