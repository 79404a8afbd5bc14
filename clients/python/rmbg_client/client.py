"""The clients: blocking and asynchronous, with the same calls."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, Unpack

import httpx2 as httpx

from rmbg_client.calls import Calls
from rmbg_client.models import Batch, Submission, Task, TaskPage
from rmbg_client.parameters import Parameters
from rmbg_client.pictures import File, Picture
from rmbg_client.transport import (
    AsyncDriver,
    BlockingDriver,
    RetryPolicy,
    checked_key,
    checked_url,
    make_http,
)

#: Of the service that `rmbg up` runs.
DEFAULT_URL: Final = "http://127.0.0.1:8000"
#: Seconds for one request with its whole body and answer.
DEFAULT_TIMEOUT: Final = 60.0
#: Seconds that the waiting calls wait for.
DEFAULT_LIMIT: Final = 300.0


class Client:
    """A client of one service, for any number of threads; it starts none.

    Args:
        url: the service's address, with its path prefix if it has one.
        api_key: as `rmbg keys add` printed it; None on one's own machine.
        timeout: seconds for one request with its whole body and answer; raise it for large
            files on slow lines.
        retries: how requests are tried again.
        http: with your proxy and certificates; it stays open when this client is closed. By
            default, the environment's proxy is used, but not for a service on loopback.
        sleep: pauses for so many seconds.
        clock: returns seconds that only grow.

    Raises:
        ValueError: `url` is no HTTP address; or `api_key` has a character that no API key has; or
            the client cannot use the proxy or the certificates that the environment names.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: RetryPolicy | None = None,
        http: httpx.Client | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        address, key = checked_url(url), checked_key(api_key)
        used = http or make_http(httpx.Client, address)
        self._own = None if http else used
        self._driver = BlockingDriver(address, key, used, sleep, clock)
        self._calls = Calls(timeout, retries or RetryPolicy(), clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless the HTTP client is the caller's."""
        if self._own is not None:
            self._own.close()

    def submit(
        self,
        picture: Picture,
        *,
        idempotency_key: str | None = None,
        wait: float = 0,
        **parameters: Unpack[Parameters],
    ) -> Submission:
        """Submit a picture, and return its task's id and state.

        Args:
            picture: a path, bytes, `Url` or `Upload`.
            idempotency_key: the same for the same submission within 24 hours; made for each call
                unless given, so that a submission whose answer was lost is not made twice.
            wait: seconds that the answer may wait for the task's end, 20 at most.
            parameters: of the API.
        """
        return self._driver.run(
            self._calls.submit(picture, parameters, idempotency_key=idempotency_key, wait=wait)
        )

    def remove(
        self,
        picture: Picture,
        *,
        limit: float = DEFAULT_LIMIT,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> bytes:
        """Submit a picture, wait for its cutout, and return the file.

        Raises:
            NoCutoutError: the task ended without one.
            WaitTimeoutError: it did not end within `limit` seconds.
        """
        return self._driver.run(
            self._calls.remove(picture, parameters, limit=limit, idempotency_key=idempotency_key)
        )

    def cut_out(
        self,
        picture: Picture,
        *,
        limit: float = DEFAULT_LIMIT,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> Task:
        """Submit a picture, and return its task once it has succeeded; see `remove`."""
        return self._driver.run(
            self._calls.cut_out(picture, parameters, limit=limit, idempotency_key=idempotency_key)
        )

    def task(self, task_id: str) -> Task:
        """Return a task as it is now."""
        return self._driver.run(self._calls.task(task_id))

    def wait(self, task_id: str, *, limit: float = DEFAULT_LIMIT) -> Task:
        """Wait for a task's end, also while the service is restarted; return it if it succeeded.

        Raises:
            NoCutoutError: the task ended without a cutout.
            WaitTimeoutError: it did not end within `limit` seconds.
        """
        return self._driver.run(self._calls.wait(task_id, limit=limit))

    def tasks(
        self, *, status: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> TaskPage:
        """Return one page of the caller's tasks, newest first.

        Args:
            status: only tasks of this state.
            limit: tasks of a page, 1 to 100.
            cursor: `next_cursor` of the page before.
        """
        return self._driver.run(self._calls.tasks(status=status, limit=limit, cursor=cursor))

    def cancel(self, task_id: str) -> Task:
        """Cancel a task, and return it: canceled, or final as it was before."""
        return self._driver.run(self._calls.cancel(task_id))

    def erase(self, task_id: str) -> None:
        """Erase a task with its pictures; nothing happens if there is none."""
        self._driver.run(self._calls.erase(task_id))

    def result(self, task_id: str) -> bytes:
        """Return the file of a task's cutout.

        Raises:
            NoCutoutError: the task has none, or none yet.
        """
        return self._driver.run(self._calls.result(task_id))

    def download(self, task_id: str, target: str | os.PathLike[str]) -> Path:
        """Write a task's cutout to a file, which is there as a whole or not at all."""
        return self._driver.run(self._calls.download(task_id, target))

    def save(self, task: Task, target: str | os.PathLike[str]) -> Path:
        """Write the cutout of a task that was just returned to a file."""
        return self._driver.run(self._calls.save(task, target))

    def submit_batch(
        self,
        pictures: Sequence[Picture],
        *,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> Batch:
        """Submit many pictures: files and bytes, or addresses and uploads.

        A picture that is refused is an item that has failed.
        """
        return self._driver.run(self._calls.submit_batch(pictures, parameters, idempotency_key))

    def batch(self, batch_id: str) -> Batch:
        """Return a batch as it is now."""
        return self._driver.run(self._calls.batch(batch_id))

    def wait_batch(self, batch_id: str, *, limit: float = DEFAULT_LIMIT) -> Batch:
        """Wait until all tasks of a batch are final, also while the service is restarted.

        Raises:
            WaitTimeoutError: they were not within `limit` seconds.
        """
        return self._driver.run(self._calls.wait_batch(batch_id, limit=limit))

    def cancel_batch(self, batch_id: str) -> Batch:
        """Cancel the tasks of a batch that are not final."""
        return self._driver.run(self._calls.cancel_batch(batch_id))

    def erase_batch(self, batch_id: str) -> None:
        """Erase a batch with all of its tasks; nothing happens if there is none."""
        self._driver.run(self._calls.erase_batch(batch_id))

    def archive(self, batch_id: str, target: str | os.PathLike[str]) -> Path:
        """Write the ZIP of a batch's cutouts, which is there as a whole or not at all."""
        return self._driver.run(self._calls.archive(batch_id, target))

    def begin_upload(self, file: File) -> str:
        """Create an upload for a file, and return its id; `resume_upload` sends the bytes."""
        return self._driver.run(self._calls.begin_upload(file))

    def resume_upload(self, upload_id: str, file: File) -> None:
        """Send what the service does not have yet of an upload, also in another process, later."""
        self._driver.run(self._calls.resume_upload(upload_id, file))

    def upload(self, file: File) -> str:
        """Send a file in pieces, going on after interruptions; return an id for `Upload`."""
        return self._driver.run(self._calls.upload(file))

    def end_upload(self, upload_id: str) -> None:
        """Erase an upload; nothing happens if there is none."""
        self._driver.run(self._calls.end_upload(upload_id))

    def info(self) -> dict[str, Any]:
        """Return what the service says of itself: models, limits, parameters, presets."""
        return self._driver.run(self._calls.info())


class AsyncClient:
    """`Client` for an event loop.

    Args:
        url: the service's address, with its path prefix if it has one.
        api_key: as `rmbg keys add` printed it; None on one's own machine.
        timeout: seconds for one request with its whole body and answer; raise it for large
            files on slow lines.
        retries: how requests are tried again.
        http: with your proxy and certificates; it stays open when this client is closed. By
            default, the environment's proxy is used, but not for a service on loopback.
        sleep: pauses for so many seconds.
        clock: returns seconds that only grow.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: RetryPolicy | None = None,
        http: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        address, key = checked_url(url), checked_key(api_key)
        used = http or make_http(httpx.AsyncClient, address)
        self._own = None if http else used
        self._driver = AsyncDriver(address, key, used, sleep, clock)
        self._calls = Calls(timeout, retries or RetryPolicy(), clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless the HTTP client is the caller's."""
        if self._own is not None:
            await self._own.aclose()

    async def submit(
        self,
        picture: Picture,
        *,
        idempotency_key: str | None = None,
        wait: float = 0,
        **parameters: Unpack[Parameters],
    ) -> Submission:
        """Submit a picture, and return its task's id and state.

        Args:
            picture: a path, bytes, `Url` or `Upload`.
            idempotency_key: the same for the same submission within 24 hours; made for each call
                unless given, so that a submission whose answer was lost is not made twice.
            wait: seconds that the answer may wait for the task's end, 20 at most.
            parameters: of the API.
        """
        return await self._driver.run(
            self._calls.submit(picture, parameters, idempotency_key=idempotency_key, wait=wait)
        )

    async def remove(
        self,
        picture: Picture,
        *,
        limit: float = DEFAULT_LIMIT,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> bytes:
        """Submit a picture, wait for its cutout, and return the file.

        Raises:
            NoCutoutError: the task ended without one.
            WaitTimeoutError: it did not end within `limit` seconds.
        """
        return await self._driver.run(
            self._calls.remove(picture, parameters, limit=limit, idempotency_key=idempotency_key)
        )

    async def cut_out(
        self,
        picture: Picture,
        *,
        limit: float = DEFAULT_LIMIT,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> Task:
        """Submit a picture, and return its task once it has succeeded; see `remove`."""
        return await self._driver.run(
            self._calls.cut_out(picture, parameters, limit=limit, idempotency_key=idempotency_key)
        )

    async def task(self, task_id: str) -> Task:
        """Return a task as it is now."""
        return await self._driver.run(self._calls.task(task_id))

    async def wait(self, task_id: str, *, limit: float = DEFAULT_LIMIT) -> Task:
        """Wait for a task's end, also while the service is restarted; return it if it succeeded.

        Raises:
            NoCutoutError: the task ended without a cutout.
            WaitTimeoutError: it did not end within `limit` seconds.
        """
        return await self._driver.run(self._calls.wait(task_id, limit=limit))

    async def tasks(
        self, *, status: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> TaskPage:
        """Return one page of the caller's tasks, newest first.

        Args:
            status: only tasks of this state.
            limit: tasks of a page, 1 to 100.
            cursor: `next_cursor` of the page before.
        """
        return await self._driver.run(self._calls.tasks(status=status, limit=limit, cursor=cursor))

    async def cancel(self, task_id: str) -> Task:
        """Cancel a task, and return it: canceled, or final as it was before."""
        return await self._driver.run(self._calls.cancel(task_id))

    async def erase(self, task_id: str) -> None:
        """Erase a task with its pictures; nothing happens if there is none."""
        await self._driver.run(self._calls.erase(task_id))

    async def result(self, task_id: str) -> bytes:
        """Return the file of a task's cutout.

        Raises:
            NoCutoutError: the task has none, or none yet.
        """
        return await self._driver.run(self._calls.result(task_id))

    async def download(self, task_id: str, target: str | os.PathLike[str]) -> Path:
        """Write a task's cutout to a file, which is there as a whole or not at all."""
        return await self._driver.run(self._calls.download(task_id, target))

    async def save(self, task: Task, target: str | os.PathLike[str]) -> Path:
        """Write the cutout of a task that was just returned to a file."""
        return await self._driver.run(self._calls.save(task, target))

    async def submit_batch(
        self,
        pictures: Sequence[Picture],
        *,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> Batch:
        """Submit many pictures: files and bytes, or addresses and uploads.

        A picture that is refused is an item that has failed.
        """
        return await self._driver.run(
            self._calls.submit_batch(pictures, parameters, idempotency_key)
        )

    async def batch(self, batch_id: str) -> Batch:
        """Return a batch as it is now."""
        return await self._driver.run(self._calls.batch(batch_id))

    async def wait_batch(self, batch_id: str, *, limit: float = DEFAULT_LIMIT) -> Batch:
        """Wait until all tasks of a batch are final, also while the service is restarted.

        Raises:
            WaitTimeoutError: they were not within `limit` seconds.
        """
        return await self._driver.run(self._calls.wait_batch(batch_id, limit=limit))

    async def cancel_batch(self, batch_id: str) -> Batch:
        """Cancel the tasks of a batch that are not final."""
        return await self._driver.run(self._calls.cancel_batch(batch_id))

    async def erase_batch(self, batch_id: str) -> None:
        """Erase a batch with all of its tasks; nothing happens if there is none."""
        await self._driver.run(self._calls.erase_batch(batch_id))

    async def archive(self, batch_id: str, target: str | os.PathLike[str]) -> Path:
        """Write the ZIP of a batch's cutouts, which is there as a whole or not at all."""
        return await self._driver.run(self._calls.archive(batch_id, target))

    async def begin_upload(self, file: File) -> str:
        """Create an upload for a file, and return its id; `resume_upload` sends the bytes."""
        return await self._driver.run(self._calls.begin_upload(file))

    async def resume_upload(self, upload_id: str, file: File) -> None:
        """Send what the service does not have yet of an upload, also in another process, later."""
        await self._driver.run(self._calls.resume_upload(upload_id, file))

    async def upload(self, file: File) -> str:
        """Send a file in pieces, going on after interruptions; return an id for `Upload`."""
        return await self._driver.run(self._calls.upload(file))

    async def end_upload(self, upload_id: str) -> None:
        """Erase an upload; nothing happens if there is none."""
        await self._driver.run(self._calls.end_upload(upload_id))

    async def info(self) -> dict[str, Any]:
        """Return what the service says of itself: models, limits, parameters, presets."""
        return await self._driver.run(self._calls.info())
