"""Accept a batch: each item becomes a task of its own, or carries the reason why it could not."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from api.errors import ERRORS, ApiError, from_inference
from api.forms import FilePart, TextPart, read_file
from api.idempotency import Reservation
from api.inputs import MAX_NAME, InputFile, check_length, close_spooled
from api.parameters import (
    PICTURES,
    RemovalJson,
    build_submission,
    check_options,
    comparable,
    load,
)
from api.quotas import note_usage
from api.rate_limits import charge_pictures, refund_pictures
from api.services import Services
from api.submission import media_type
from inference.errors import InferenceError
from tasks.api_keys import Owner
from tasks.errors import (
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    QueueFullError,
    QueueUnavailableError,
    QuotaExceededError,
    TaskError,
    UncertainWriteError,
    UploadError,
)
from tasks.jobs.batches import Batch, BatchItem, new_batch_id
from tasks.jobs.job import JobError, Priority, new_task_id
from tasks.jobs.job_objects import discard_object
from tasks.net.url_guard import MAX_URL
from tasks.object_store import original_key
from tasks.quotas import Usage

#: The file field of a batch.
IMAGES: Final = ("images", "images[]", "image")
_SEND_IMAGES: Final = "Send pictures as `images`."
#: Shared parameters that apply to the batch, not to each of its tasks.
_OF_BATCH: Final = frozenset({"webhook_url"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a request, before it is a task.

    Attributes:
        name: of the input.
        parameters: its own, raw; they override the shared ones.
        task_id: that its task is to have; empty if its file cannot be used.
        image: the file, stored under that task's key unless it cannot be used.
        error: why it cannot become a task.
        charged: tokens that were taken from the caller's rate limit for it.
        only_read: the file was read for its digest, since the request was sent before.
    """

    name: str
    parameters: Mapping[str, Any]
    task_id: str = ""
    image: InputFile | None = None
    error: JobError | None = None
    charged: int = 0
    only_read: bool = False


@dataclass(frozen=True)
class BatchSubmission:
    """Accepts the batch that one request submits.

    Attributes:
        services: of the application.
        owner: who submits it.
        request_id: goes with its tasks into every log line.
        idempotency_key: the request's header, if it has one.
        recorded: ids of the entries that have become tasks, or may have.
    """

    services: Services
    owner: Owner
    request_id: str
    idempotency_key: str | None
    recorded: set[str] = field(default_factory=set)

    @cached_property
    def repeats(self) -> bool:
        """Whether the request's Idempotency-Key was used: then its files are compared, not kept."""
        return self.services.idempotency.is_known(self.owner.id, self.idempotency_key)

    def from_json(self, body: Mapping[str, Any]) -> tuple[Batch, bool]:
        """Accept a batch of `items`, each with its own parameters, beside shared ones.

        Raises:
            ApiError: `items` or the shared parameters are invalid.
        """
        shared = dict(body)
        items = shared.pop("items", None)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ApiError("invalid_parameter", "Send `items`: a list of objects.")
        self._check_number(len(items))
        entries = [Entry(_name_of(item), item, new_task_id()) for item in items]
        try:
            return self._accept(entries, shared)
        finally:
            self._release(entries)

    def from_form(self, parts: Iterable[TextPart | FilePart]) -> tuple[Batch, bool]:
        """Accept a batch of files in a form; its other fields are shared parameters.

        Raises:
            ApiError: the form or the shared parameters are invalid; nothing of it is kept.
        """
        entries: list[Entry] = []
        accepted = False
        try:
            shared = self._read_form(parts, entries)
            self._check_number(len(entries))
            # Options that do not go together here do so in no item either.
            check_options(self._load_shared(shared))
            batch = self._accept(entries, shared)
            accepted = True
            return batch
        finally:
            if not accepted:
                refund_pictures(sum(entry.charged for entry in entries))
            for entry in entries:
                # A stored file that has not become a task.
                key = entry.image and entry.image.object_key
                if key and entry.task_id not in self.recorded:
                    discard_object(self.services.runtime.object_store, key)
            self._release(entries)

    def _read_form(
        self, parts: Iterable[TextPart | FilePart], entries: list[Entry]
    ) -> dict[str, str]:
        """Add a form's files to the entries, one by one, and return its shared parameters."""
        shared: dict[str, str] = {}
        for part in parts:
            if isinstance(part, TextPart):
                # An empty field is what an HTML form sends for "none".
                if part.value and isinstance(part.value, str):
                    shared[part.name] = part.value
            elif part.name in IMAGES:
                self._check_number(len(entries) + 1)
                entries.append(self._receive(part, len(entries)))
            else:
                raise ApiError(
                    "unknown_parameter",
                    f"{part.name}: {_SEND_IMAGES}",
                    fields={part.name: _SEND_IMAGES},
                )
        return shared

    def _check_number(self, count: int) -> None:
        most = self.services.settings.max_batch_images
        if count == 0:
            raise ApiError("missing_image", "Send pictures, as the form's files `images`.")
        if count > most:
            raise ApiError(
                "batch_too_large", f"A batch may have {most} pictures; send several batches."
            )

    def _receive(self, part: FilePart, before: int) -> Entry:
        """Charge and stage a file; of a request that was sent before, only read it.

        Args:
            part: the file.
            before: number of the files that the request has been charged for.
        """
        if self.repeats:
            image = read_file(part, self.services.settings.max_image_bytes)
            image.stream.close()
            return Entry(part.file_name, {}, image=image, only_read=True)
        charge_pictures(spent=before)
        try:
            return self._stage(part)
        except BaseException:
            # The form's other files are given back with their entries.
            refund_pictures(1)
            raise

    def _stage(self, part: FilePart) -> Entry:
        """Check a file, and store it under the key of the task that it is to become.

        What the task is to be may follow in the form, so the manifest is added later.
        """
        settings = self.services.settings
        task_id, image = new_task_id(), read_file(part, settings.max_image_bytes)
        try:
            check_length(image.length, settings.max_image_bytes, "image")
            kind = media_type(image.probe(settings.image_limits))
        except (ApiError, InferenceError) as error:
            return Entry(part.file_name, {}, image=image, error=explain(error), charged=1)
        else:
            key, runtime = original_key(task_id), self.services.runtime
            with runtime.quotas.released_on_error(self.owner.id, [task_id]):
                runtime.quotas.charge(self.owner, [task_id], {key: image.length}, pending=True)
                runtime.object_store.put(key, image.stream, image.length, kind)
            image.object_key = key
            return Entry(part.file_name, {}, task_id, image, charged=1)
        finally:
            # One file at a time takes memory.
            image.stream.close()

    def _release(self, entries: Iterable[Entry]) -> None:
        """Release what was charged for entries that have not become tasks."""
        left = [each.task_id for each in entries if each.task_id not in {"", *self.recorded}]
        if left:
            self.services.runtime.quotas.release(self.owner.id, left)

    def _accept(self, entries: list[Entry], shared: Mapping[str, Any]) -> tuple[Batch, bool]:
        """Return the batch, and whether an earlier request made it."""
        common = self._load_shared(shared)
        payload = [
            shared,
            [
                [each.name, comparable(each.parameters), each.image.sha256 if each.image else ""]
                for each in entries
            ],
        ]
        return self.services.idempotency.accept(
            self.owner.id,
            self.idempotency_key,
            ["batch", payload],
            new_id=new_batch_id,
            make=lambda batch_id, reservation: self._make(
                self._new_batch(batch_id, common), reservation, entries, shared
            ),
            find=self.services.runtime.batches.get,
        )

    def _make(
        self,
        batch: Batch,
        reservation: Reservation | None,
        entries: list[Entry],
        shared: Mapping[str, Any],
    ) -> Batch:
        """Charge the pictures, record the batch, submit each entry, and seal the batch."""
        if any(entry.only_read for entry in entries):
            # The earlier request was refused after this one had found its key.
            raise ApiError("idempotency_in_progress", retry_after=1)
        uncharged = len(entries) - sum(entry.charged for entry in entries)
        if uncharged:
            # Before an address is fetched.
            charge_pictures(uncharged)
        try:
            # All places at once; those of files were charged as the files came.
            note_usage(self._reserve(entries))
            self.services.runtime.batches.create(batch)
            each = {name: value for name, value in shared.items() if name not in _OF_BATCH}
            items = list(self._items(entries, each, batch.batch_id))
            self.services.runtime.batches.seal(
                batch, items, reservation=reservation.to_keep() if reservation else None
            )
        except BaseException:
            refund_pictures(uncharged)
            raise
        return self.services.runtime.batches.get(batch.batch_id) or batch

    def _reserve(self, entries: Iterable[Entry]) -> Usage:
        ids = [each.task_id for each in entries if each.task_id]
        return self.services.runtime.quotas.charge(self.owner, ids, {}, pending=True)

    def _load_shared(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        pictures = [name for name in PICTURES if name in shared]
        if pictures:
            sentence = "Give this parameter in an item, not for the whole batch."
            raise ApiError("invalid_parameter", sentence, fields=dict.fromkeys(pictures, sentence))
        return load(RemovalJson, shared)

    def _new_batch(self, batch_id: str, common: Mapping[str, Any]) -> Batch:
        now = self.services.clock()
        return Batch(
            batch_id=batch_id,
            owner=self.owner.id,
            created_at=now,
            expires_at=now + self.services.settings.retention_hours * 3600,
            metadata=dict(common["metadata"]),
            webhook_url=self.services.submissions.webhook_url(common["webhook_url"], self.owner),
            request_id=self.request_id,
        )

    def _items(
        self, entries: Iterable[Entry], shared: Mapping[str, Any], batch_id: str
    ) -> Iterator[BatchItem]:
        """Submit the entries, and yield an item for each: its task, or why it has none."""
        accepted = 0
        for entry in entries:
            try:
                item = self._item(entry, shared, batch_id)
                yield item
                # A file that was refused while the form was read raises nothing here.
                accepted += item.task_id is not None
            except (ApiError, InferenceError, UploadError, ObjectNotFoundError) as error:
                yield BatchItem(entry.name, error=explain(error))
            except (
                QueueFullError,
                QuotaExceededError,
                QueueUnavailableError,
                ObjectStoreUnavailableError,
            ) as error:
                if not accepted or isinstance(error, UncertainWriteError):
                    # If no item was accepted, the request fails as a whole; also if it is unknown
                    # whether one was, since a batch counts the ends of its own tasks only.
                    self.services.runtime.batches.remove(batch_id)
                    raise
                yield BatchItem(entry.name, error=explain(error))

    def _item(self, entry: Entry, shared: Mapping[str, Any], batch_id: str) -> BatchItem:
        """Submit an entry as one task, and return the batch's item for it."""
        if entry.error is not None:
            return BatchItem(entry.name, error=entry.error)
        parameters = load(RemovalJson, {**shared, **entry.parameters})
        if entry.image is not None:
            parameters["image"] = entry.image
        task_id = entry.task_id or new_task_id()
        try:
            with self.services.runtime.quotas.released_on_error(self.owner.id, [task_id]):
                submission = build_submission(
                    parameters,
                    self.services.inputs,
                    self.owner,
                    task_id=task_id,
                    priority=Priority.LOW,
                    batch_id=batch_id,
                )
                job = self.services.submissions.submit(
                    submission, self.request_id, task_id=task_id
                ).job
        except UncertainWriteError:
            # The task may have been recorded, and then it needs its picture.
            self.recorded.add(entry.task_id)
            raise
        finally:
            # One item's pictures at a time take memory, or files.
            close_spooled()
        self.recorded.add(entry.task_id)
        return BatchItem(entry.name or submission.image.file_name, job.task_id)


def explain(error: Exception) -> JobError:
    """Return the reason why an item was refused, by the table of errors."""
    if isinstance(error, InferenceError):
        error = from_inference(error)
    if isinstance(error, ApiError):
        retryable = error.row.status >= 500 or error.retry_after is not None  # noqa: PLR2004 - HTTP's
        return JobError(error.row.type, str(error), retryable=retryable)
    if isinstance(error, UploadError):
        return JobError(error.code, str(error))
    if isinstance(error, QuotaExceededError):
        return JobError(error.code, str(error), retryable=True)
    code = error.code if isinstance(error, TaskError) and error.code in ERRORS else "internal_error"
    return JobError(code, ERRORS[code].message, retryable=True)


def _name_of(item: Mapping[str, Any]) -> str:
    address = item.get("image_url")
    if not isinstance(address, str):
        return ""
    # It is not judged yet, and may be of any length.
    return address[:MAX_URL].partition("?")[0].rpartition("/")[2][:MAX_NAME]
