"""A client that returns the API's JSON as it came, for benchmarks and tests.

Programs use `rmbg_client`, which repeats submissions safely and reads answers into types.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self, cast

import urllib3

#: The longest that one request waits for a task to end; another request follows it.
_WAIT_SECONDS: Final = 30
_FINAL_STATUSES: Final = frozenset({"succeeded", "failed", "canceled", "expired"})
_HTTP_OK: Final = 200


class ClientError(Exception):
    """The service did not answer, or refused a request; the text is for people."""


class ServiceClient:
    """Sends requests to one service, from any number of threads.

    Every method raises `ClientError` if the service does not answer, or answers with an error.
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
        """Submit a picture, and return its task's id."""
        image = (photo.name, photo.read_bytes(), "application/octet-stream")
        fields = {**options, "image": image}
        return str(self.request("POST", "/api/v1/remove-bg", fields=fields)["task_id"])

    def wait(self, task_id: str) -> dict[str, Any]:
        """Wait until a task is final, without a limit, and return it."""
        while True:
            task = self.request("GET", f"/api/v1/tasks/{task_id}?wait={_WAIT_SECONDS}")
            if task["status"] in _FINAL_STATUSES:
                return task

    def cut_out(self, photo: Path, options: Mapping[str, str]) -> bytes:
        """Submit a picture, wait for its cutout, and return the file."""
        return self.result(self.submit(photo, options))

    def result(self, task_id: str) -> bytes:
        """Wait for a task's cutout, and return the file; a task that fails is an error."""
        task = self.wait(task_id)
        if task["status"] != "succeeded":
            reason = (task.get("error") or {}).get("message") or f"the task is {task['status']}"
            raise ClientError(reason)
        return self.download(task["result_url"])

    def download(self, url: str) -> bytes:
        """Return the content of a signed URL."""
        response = self._send("GET", url)
        if response.status != _HTTP_OK:
            raise ClientError(f"the cutout cannot be fetched: HTTP {response.status}")
        return response.data

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,  # noqa: ANN401 - arguments of urllib3's `request`
    ) -> dict[str, Any]:
        """Send a request to a path of the service, and return the `data` of its envelope."""
        url = f"{self._url}{path}"
        response = self._send(method, url, headers={**self._headers, **(headers or {})}, **more)
        try:
            body = json.loads(response.data)
        except ValueError as error:
            raise ClientError(
                f"{self._url} is not an rmbg service (HTTP {response.status})"
            ) from error
        if body.get("code") != 0:
            raise ClientError(body.get("message") or f"HTTP {response.status}")
        return cast("dict[str, Any]", body["data"])

    def _send(self, method: str, url: str, **more: Any) -> urllib3.BaseHTTPResponse:  # noqa: ANN401 - urllib3's
        try:
            return self._pool.request(method, url, **more)
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise ClientError(
                f"no answer from {self._url} ({type(reason).__name__}); is the service running?"
            ) from error
