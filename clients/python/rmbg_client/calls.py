"""The calls of the API, written once for blocking and asynchronous clients (see `transport`)."""

import base64
import hashlib
import os
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, TypeVar, cast
from urllib.parse import quote

from rmbg_client.errors import (
    NoAnswerError,
    NoCutoutError,
    RmbgError,
    ServiceError,
    WaitTimeoutError,
)
from rmbg_client.models import Batch, Submission, Task, TaskPage
from rmbg_client.pictures import (
    Bytes,
    File,
    Form,
    Json,
    Picture,
    Raw,
    is_file,
    json_item,
    readable_name,
)
from rmbg_client.service_errors import (
    BatchFinishedError,
    BatchNotFoundError,
    ChecksumMismatchError,
    TaskFinishedError,
    TaskNotFoundError,
    UploadNotFoundError,
    UploadOffsetMismatchError,
)
from rmbg_client.transport import Answer, Call, RetryPolicy, Send, Sleep, attempts, may_pass

T = TypeVar("T", Task, Batch)

#: The longest that one request waits for a task's end, in seconds; another one follows it.
_LONGEST_WAIT: Final = 20.0
#: Between two requests that ask for a task, for which the service itself has waited, in seconds.
_TASK_PAUSE: Final = 0.2
#: Between two requests that ask for a batch, in seconds.
_BATCH_PAUSE: Final = 1.0
#: Bytes of an upload that are sent in one request.
CHUNK_BYTES: Final = 8 * 2**20
_TUS: Final = {"Tus-Resumable": "1.0.0"}
_SUBMIT: Final = "/api/v1/remove-bg"
_UPLOADS: Final = "/api/v1/uploads"
_TASKS: Final = "/api/v1/tasks"


@dataclass(frozen=True, slots=True)
class Calls:
    """Makes the calls of one client.

    Attributes:
        timeout: seconds for one request with its whole body and answer.
        policy: how requests are tried again.
        clock: returns seconds that only grow.
        new_key: returns a new idempotency key.
    """

    timeout: float
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    clock: Callable[[], float] = time.monotonic
    new_key: Callable[[], str] = lambda: str(uuid.uuid4())

    # -- Tasks -------------------------------------------------------------------------------------

    def submit(
        self,
        picture: Picture,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        wait: float = 0,
    ) -> Call[Submission]:
        """Submit a picture; `wait` is how long the answer may wait for the task's end."""
        values = dict(parameters)
        files: list[tuple[str, File]] = []
        if is_file(picture):
            files.append(("image", cast("File", picture)))
        else:
            values |= json_item(picture)
        if "background_image" in values:
            files.append(("background_image", values.pop("background_image")))
        seconds = int(min(wait, _LONGEST_WAIT))
        answer = yield from self._attempts(
            "POST",
            _SUBMIT,
            body=Form(values, files) if files else Json(values),
            headers={
                "Idempotency-Key": idempotency_key or self.new_key(),
                **({"Prefer": f"wait={seconds}"} if seconds else {}),
            },
            longer=seconds,
        )
        return Submission.of(answer.data, replayed="Idempotency-Replayed" in answer.headers)

    def remove(
        self,
        picture: Picture,
        parameters: Mapping[str, Any],
        *,
        limit: float,
        idempotency_key: str | None,
    ) -> Call[bytes]:
        """Submit a picture, wait for its cutout, and return the file."""
        task = yield from self.cut_out(
            picture, parameters, limit=limit, idempotency_key=idempotency_key
        )
        return (yield from self._content(task))

    def cut_out(
        self,
        picture: Picture,
        parameters: Mapping[str, Any],
        *,
        limit: float,
        idempotency_key: str | None,
    ) -> Call[Task]:
        """Submit a picture, and wait for the end of its task, which succeeded."""
        end = self.clock() + limit
        submission = yield from self.submit(
            picture, parameters, idempotency_key=idempotency_key, wait=limit
        )
        if submission.task is not None:
            return _succeeded(submission.task)
        return (yield from self.wait(submission.task_id, limit=max(0.0, end - self.clock())))

    def task(self, task_id: str) -> Call[Task]:
        """Return a task as it is now."""
        answer = yield from self._attempts("GET", _path(_TASKS, task_id))
        return Task.of(answer.data)

    def wait(self, task_id: str, *, limit: float) -> Call[Task]:
        """Wait for a task's end, and return it if it succeeded."""
        end = self.clock() + limit

        def ask() -> Call[Task]:
            seconds = min(max(0.0, end - self.clock()), _LONGEST_WAIT)
            address, query = _path(_TASKS, task_id), {"wait": f"{seconds:.3f}"}
            answer: Answer = yield Send("GET", address, self.timeout + seconds, query=query)
            return Task.of(answer.data)

        return _succeeded((yield from self._poll(task_id, limit, ask, _TASK_PAUSE)))

    def tasks(self, *, status: str | None, limit: int, cursor: str | None) -> Call[TaskPage]:
        """Return one page of the caller's tasks, newest first."""
        query = {"limit": str(limit), "status": status, "cursor": cursor}
        given = {name: value for name, value in query.items() if value is not None}
        answer = yield from self._attempts("GET", _TASKS, query=given)
        page = answer.data
        return TaskPage(tuple(map(Task.of, page["tasks"])), page["next_cursor"])

    def cancel(self, task_id: str) -> Call[Task]:
        """Cancel a task; return it, canceled, or final as it was before."""
        try:
            answer = yield from self._attempts("POST", _path(_TASKS, task_id, "cancel"))
        except TaskFinishedError:  # perhaps by an attempt whose answer was lost
            return (yield from self.task(task_id))
        return Task.of(answer.data)

    def erase(self, task_id: str) -> Call[None]:
        """Erase a task with its pictures; nothing happens if there is none."""
        yield from self._delete(_path(_TASKS, task_id), TaskNotFoundError)

    def result(self, task_id: str) -> Call[bytes]:
        """Return the file of a task's cutout."""
        task = yield from self.task(task_id)
        return (yield from self._content(task))

    def download(self, task_id: str, target: str | os.PathLike[str]) -> Call[Path]:
        """Write a task's cutout to a file, which is there as a whole or not at all."""
        task = yield from self.task(task_id)
        return (yield from self.save(task, target))

    def save(self, task: Task, target: str | os.PathLike[str]) -> Call[Path]:
        """Write the cutout of a task that has just ended to a file."""
        with whole_file(Path(target)) as file:
            yield from self._fetch(task, file)
        return Path(target)

    # -- Batches -----------------------------------------------------------------------------------

    def submit_batch(
        self,
        pictures: Sequence[Picture],
        parameters: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> Call[Batch]:
        """Submit many pictures, all of which are files, or none."""
        sent = [each for each in pictures if is_file(each)]
        if not pictures or (sent and len(sent) < len(pictures)):
            raise ValueError(
                "A batch has at least one picture, and either files and bytes or addresses and "
                "uploads; submit two batches."
            )
        body = (
            Form(parameters, [("images", cast("File", each)) for each in sent])
            if sent
            else Json({**parameters, "items": [json_item(each) for each in pictures]})
        )
        key = {"Idempotency-Key": idempotency_key or self.new_key()}
        answer = yield from self._attempts("POST", f"{_SUBMIT}/batch", body=body, headers=key)
        return Batch.of(answer.data)

    def batch(self, batch_id: str) -> Call[Batch]:
        """Return a batch as it is now."""
        answer = yield from self._attempts("GET", _path("/api/v1/batches", batch_id))
        return Batch.of(answer.data)

    def wait_batch(self, batch_id: str, *, limit: float) -> Call[Batch]:
        """Wait until all tasks of a batch are final."""

        def ask() -> Call[Batch]:
            answer: Answer = yield Send("GET", _path("/api/v1/batches", batch_id), self.timeout)
            return Batch.of(answer.data)

        return (yield from self._poll(batch_id, limit, ask, _BATCH_PAUSE))

    def cancel_batch(self, batch_id: str) -> Call[Batch]:
        """Cancel the tasks of a batch that are not final."""
        try:
            path = _path("/api/v1/batches", batch_id, "cancel")
            answer = yield from self._attempts("POST", path)
        except BatchFinishedError:
            return (yield from self.batch(batch_id))
        return Batch.of(answer.data)

    def erase_batch(self, batch_id: str) -> Call[None]:
        """Erase a batch with all of its tasks; nothing happens if there is none."""
        yield from self._delete(_path("/api/v1/batches", batch_id), BatchNotFoundError)

    def archive(self, batch_id: str, target: str | os.PathLike[str]) -> Call[Path]:
        """Write the ZIP of a batch's cutouts, which is there as a whole or not at all."""
        with whole_file(Path(target)) as file:
            path = _path("/api/v1/batches", batch_id, "archive")
            yield from self._attempts("GET", path, sink=file)
        return Path(target)

    # -- Uploads -----------------------------------------------------------------------------------

    def begin_upload(self, file: File) -> Call[str]:
        """Create an upload for a file, of which no byte is sent yet; return its id."""
        with _opened(file) as (_, size, name):
            pass
        given = base64.b64encode(name.encode()).decode()
        headers = {
            **_TUS,
            "Upload-Length": str(size),
            "Upload-Metadata": f"filename {given}",
            # An attempt whose answer was lost leaves no second upload.
            "Idempotency-Key": self.new_key(),
        }
        answer = yield from self._attempts("POST", _UPLOADS, headers=headers)
        return answer.headers["Location"].rstrip("/").rpartition("/")[2]

    def resume_upload(self, upload_id: str, file: File) -> Call[None]:
        """Send what the service does not have yet of an upload; begin where it ends."""
        path = _path(_UPLOADS, upload_id)
        with _opened(file) as (content, size, _):
            offset = yield from self._offset(path)
            failures = 0
            while offset < size:
                content.seek(offset)
                chunk = content.read(CHUNK_BYTES)
                if not chunk:
                    raise OSError(f"The file became shorter than {size} bytes while it was sent.")
                try:
                    answer: Answer = yield self._chunk(path, offset, chunk)
                except (NoAnswerError, ServiceError) as error:
                    failures += 1
                    pause = self._upload_pause(error, failures)
                    if pause is None:
                        raise
                    yield Sleep(pause)
                    # What came of the chunk is the service's to say.
                    offset = yield from self._offset(path)
                else:
                    failures = 0
                    offset = int(answer.headers["Upload-Offset"])

    def upload(self, file: File) -> Call[str]:
        """Send a file in pieces, going on where an interruption left it; return the upload's id."""
        upload_id = yield from self.begin_upload(file)
        yield from self.resume_upload(upload_id, file)
        return upload_id

    def end_upload(self, upload_id: str) -> Call[None]:
        """Erase an upload; nothing happens if there is none."""
        yield from self._delete(_path(_UPLOADS, upload_id), UploadNotFoundError, headers=_TUS)

    def _chunk(self, path: str, offset: int, chunk: bytes) -> Send:
        digest = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
        headers = {
            **_TUS,
            "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {digest}",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(len(chunk)),
        }
        return Send("PATCH", path, self.timeout, headers=headers, body=Raw(chunk))

    def _upload_pause(self, error: NoAnswerError | ServiceError, failures: int) -> float | None:
        """Return the pause before the offset is asked for again; None if the error stays."""
        if isinstance(error, UploadOffsetMismatchError | ChecksumMismatchError):
            return self.policy.pause(failures) if failures < self.policy.attempts else None
        return self.policy.next_pause(error, failures)

    def _offset(self, path: str) -> Call[int]:
        answer = yield from self._attempts("HEAD", path, headers=_TUS)
        return int(answer.headers["Upload-Offset"])

    # -- The service -------------------------------------------------------------------------------

    def info(self) -> Call[dict[str, Any]]:
        """Return what the service says of itself: models, limits, parameters, presets."""
        answer = yield from self._attempts("GET", "/api/v1/info")
        return answer.data

    # -- What they share ---------------------------------------------------------------------------

    def _attempts(
        self,
        method: str,
        address: str,
        *,
        longer: float = 0,
        **more: Any,  # noqa: ANN401 - of Send
    ) -> Call[Answer]:
        return attempts(Send(method, address, self.timeout + longer, **more), self.policy)

    def _delete(
        self, path: str, absent: type[ServiceError], headers: Mapping[str, str] | None = None
    ) -> Call[None]:
        """Delete something; that there is none may be an earlier attempt's doing."""
        try:
            yield from self._attempts("DELETE", path, headers=headers or {})
        except absent:
            return

    def _poll(self, of: str, limit: float, ask: Callable[[], Call[T]], between: float) -> Call[T]:
        """Ask until it is final or the time is over; failures that pass are waited out."""
        end = self.clock() + limit
        failures, cause = 0, None
        while True:
            pause = between
            try:
                found = yield from ask()
            except RmbgError as error:
                if not may_pass(error):
                    raise
                failures, cause = failures + 1, error
                asked = getattr(error, "retry_after", None) or 0.0
                pause = max(asked, self.policy.pause(failures))
            else:
                if found.final:
                    return found
                failures, cause = 0, None
            left = end - self.clock()
            if left <= 0:
                raise WaitTimeoutError(of, limit) from cause
            yield Sleep(min(pause, left))

    def _content(self, task: Task) -> Call[bytes]:
        file = BytesIO()
        yield from self._fetch(task, file)
        return file.getvalue()

    def _fetch(self, task: Task, sink: IO[bytes]) -> Call[None]:
        """Fetch a cutout from its signed address, which no key is sent to."""
        for last in (False, True):
            if task.status != "succeeded" or not task.result_url:
                raise NoCutoutError(task)
            try:
                yield from self._attempts("GET", task.result_url, sink=sink)
            except ServiceError:
                if last:
                    raise
                # A signed address is valid for a limited time: the task has a new one.
                task = yield from self.task(task.task_id)
            else:
                return


def _path(*parts: str) -> str:
    first, *others = parts
    return "/".join([first, *(quote(each, safe="") for each in others)])


def _succeeded(task: Task) -> Task:
    if task.status != "succeeded":
        raise NoCutoutError(task)
    return task


@contextmanager
def _opened(file: File) -> Iterator[tuple[IO[bytes], int, str]]:
    """Open a file; yield it, its size and its name."""
    if isinstance(file, bytes):
        file = Bytes(file)
    if isinstance(file, Bytes):
        yield BytesIO(file.content), len(file.content), file.name
        return
    with Path(file).open("rb") as opened:
        yield opened, os.fstat(opened.fileno()).st_size, readable_name(Path(file).name)


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a file beside the target that replaces it once the block has ended well."""
    # A short name of its own: the target's may be as long as the file system allows.
    draft = target.with_name(f".rmbg-{secrets.token_hex(8)}.part")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
