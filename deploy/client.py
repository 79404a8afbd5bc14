"""A client of the service's REST API, for the command line, the self-check and the tests."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

import urllib3

#: Longest that one request waits for a task's end; the next request goes on waiting.
_WAIT_SECONDS: Final = 30

_FINAL: Final = frozenset({"succeeded", "failed", "canceled", "expired"})


class ClientError(Exception):
    """The service could not be asked, or said no; the text is for people."""


class ServiceClient:
    """Talks to one service, from as many threads as wanted.

    Args:
        url: the service's address, such as `http://127.0.0.1:8000`.
        api_key: sent as `X-API-Key`, if given.
        connections: how many requests run at once without queueing for a connection.
    """

    def __init__(self, url: str, *, api_key: str | None = None, connections: int = 4) -> None:
        self._url = url.rstrip("/")
        self._headers = {"X-API-Key": api_key} if api_key else {}
        self._pool = urllib3.PoolManager(
            maxsize=connections,
            timeout=urllib3.Timeout(connect=5, read=_WAIT_SECONDS + 30),
            retries=urllib3.Retry(total=3, connect=0, read=0, backoff_factor=0.5),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def submit(self, photo: Path, options: Mapping[str, str]) -> str:
        """Send a picture; its task's id.

        Raises:
            ClientError: the file cannot be read, or the service refused it.
        """
        try:
            picture = photo.read_bytes()
        except OSError as error:
            raise ClientError(f"cannot be read: {error.strerror}") from error
        fields = {**options, "image": (photo.name, picture, "application/octet-stream")}
        answer = self._request("POST", f"{self._url}/api/v1/remove-bg", fields=fields)
        return str(answer["task_id"])

    def wait(self, task_id: str) -> dict[str, Any]:
        """The task, once it is final; waits for as long as that takes.

        Raises:
            ClientError: the service does not know the task, or does not answer.
        """
        while True:
            task = self._request("GET", f"{self._url}/api/v1/tasks/{task_id}?wait={_WAIT_SECONDS}")
            if task["status"] in _FINAL:
                return task

    def cut_out(self, photo: Path, options: Mapping[str, str]) -> bytes:
        """Send a picture, wait for its cutout and fetch it.

        Raises:
            ClientError: at whatever step it went wrong.
        """
        return self.result(self.submit(photo, options))

    def result(self, task_id: str) -> bytes:
        """Wait for a task's cutout and fetch it.

        Raises:
            ClientError: the task came to nothing, or the service does not answer.
        """
        task = self.wait(task_id)
        if task["status"] != "succeeded":
            reason = (task.get("error") or {}).get("message") or f"the task is {task['status']}"
            raise ClientError(reason)
        return self.download(task["result_url"])

    def download(self, url: str) -> bytes:
        """The bytes behind a signed address."""
        answer = self._send("GET", url)
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise ClientError(f"the cutout cannot be fetched: HTTP {answer.status}")
        return answer.data

    def request(self, method: str, path: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - urllib3's
        """What the service answers at a path of its own; `more` is urllib3's.

        Raises:
            ClientError: it says no, or does not answer.
        """
        return self._request(method, f"{self._url}{path}", **more)

    def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,  # noqa: ANN401 - urllib3's
    ) -> dict[str, Any]:
        answer = self._send(method, url, headers={**self._headers, **(headers or {})}, **more)
        try:
            body = json.loads(answer.data)
        except ValueError as error:
            raise ClientError(f"{self._url} is no rmbg service (HTTP {answer.status})") from error
        if body.get("code") != 0:
            raise ClientError(body.get("message") or f"HTTP {answer.status}")
        return cast("dict[str, Any]", body["data"])

    def _send(self, method: str, url: str, **more: Any) -> urllib3.BaseHTTPResponse:  # noqa: ANN401 - the same
        try:
            return self._pool.request(method, url, **more)
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise ClientError(
                f"no answer from {self._url} ({type(reason).__name__}); is the service running?"
            ) from error


_CHUNK_BYTES: Final = 2**18

_CRLF: Final = b"\r\n"

#: The answer comes once every picture has been looked at and stored.
_BATCH_TIMEOUT: Final = urllib3.Timeout(connect=5, read=600)


def submit_batch(
    client: ServiceClient, photos: Sequence[Path], options: Mapping[str, str]
) -> dict[str, Any]:
    """Send pictures as one batch; the batch, its items in the order of the pictures.

    One piece of one picture at a time stands in memory.

    Raises:
        ClientError: a file cannot be read, or the service refused the batch.
    """
    boundary = secrets.token_hex(16)
    heads = [_file_head(boundary, photo.name) for photo in photos]
    start = b"".join(_field(boundary, name, value) for name, value in options.items())
    end = f"--{boundary}--\r\n".encode()
    sizes = sum(
        len(head) + _size(photo) + len(_CRLF) for head, photo in zip(heads, photos, strict=True)
    )
    return client.request(
        "POST",
        "/api/v1/remove-bg/batch",
        body=_body(start, list(zip(heads, photos, strict=True)), end),
        headers={
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(start) + sizes + len(end)),
        },
        timeout=_BATCH_TIMEOUT,
    )


def _field(boundary: str, name: str, value: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return f"{head}{value}\r\n".encode()


def _file_head(boundary: str, name: str) -> bytes:
    safe = name.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
    return (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="images"; filename="{safe}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _size(photo: Path) -> int:
    try:
        return photo.stat().st_size
    except OSError as error:
        raise ClientError(f"{photo} cannot be read: {error.strerror}") from error


def _body(start: bytes, files: Sequence[tuple[bytes, Path]], end: bytes) -> Iterator[bytes]:
    yield start
    for head, photo in files:
        yield head
        try:
            with photo.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise ClientError(f"{photo} cannot be read: {error.strerror}") from error
        yield _CRLF
    yield end
