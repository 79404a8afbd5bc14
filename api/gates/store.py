"""Connections to the store that are given up when it falls silent, however much is on its way.

A large picture may take a slow store longer than anybody would wait for one that is gone. So a
call may take its time, and is watched: as long as the store answers others, or a probe, it goes on.
"""

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, Self

import urllib3
from minio.error import S3Error
from urllib3.exceptions import HTTPError

from api.gates.gate import ClosedError, Gate
from tasks.errors import StoreUnavailableError
from tasks.probing import probe_store
from tasks.settings import Settings
from tasks.storage import CONNECTIONS, STALE_RETRIES

#: An answer of the store counts for so long, and a call that takes longer is looked after.
TRUST_SECONDS: Final = 1.0
#: A store that does not answer a probe within so many seconds counts as away.
_PROBE_SECONDS: Final = 2.0
#: Longest silence in a call, while the store answers otherwise.
_READ_SECONDS: Final = 20.0
#: More than gunicorn has threads, each with a call of its own.
_CALLS: Final = 128


class SilentStoreError(HTTPError):
    """The store does not answer, as far as is known."""


class _RetryUnlessSlow(urllib3.Retry):
    """Tries again where a connection was dropped, not where it was silent for its time."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *more: Any,  # noqa: ANN401 - urllib3's own
        **named: Any,  # noqa: ANN401 - the same
    ) -> Self:
        """What is left of the tries; raises what is not to be tried again."""
        if isinstance(error, urllib3.exceptions.TimeoutError):
            raise error
        return super().increment(method, url, response, error, *more, **named)


class GatedPool(urllib3.PoolManager):
    """Connections to the store, behind a gate."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(
            timeout=urllib3.Timeout(connect=2, read=_READ_SECONDS),
            maxsize=CONNECTIONS,
            retries=_RetryUnlessSlow(**STALE_RETRIES),
        )
        self._gate = gate
        self._calls = ThreadPoolExecutor(_CALLS, thread_name_prefix="store")

    def urlopen(
        self,
        method: str,
        url: str,
        *args: Any,  # noqa: ANN401 - urllib3's own
        **more: Any,  # noqa: ANN401 - the same
    ) -> urllib3.BaseHTTPResponse:
        """As the base class; `SilentStoreError` soon, or at once, when the store is silent."""
        self._check()
        # In another thread, so that it can be left alone.
        call = self._calls.submit(super().urlopen, method, url, *args, **more)
        while not wait([call], TRUST_SECONDS).done:
            try:
                self._check()
            except SilentStoreError:
                call.cancel()
                raise
        answer = call.result()
        self._gate.answered()
        return answer

    def _check(self) -> None:
        try:
            self._gate.check()
        except ClosedError as error:
            raise SilentStoreError(str(error)) from error


def store_gate(settings: Settings) -> Gate:
    """The store's: its silence is no sign of life."""
    return Gate(lambda: _probe(settings), trust=TRUST_SECONDS)


def _probe(settings: Settings) -> None:
    try:
        probe_store(settings, seconds=_PROBE_SECONDS)
    except StoreUnavailableError as error:
        # That the bucket is not there, or may not be asked for, is an answer too.
        if error.__cause__ is not None and not isinstance(error.__cause__, S3Error):
            raise
