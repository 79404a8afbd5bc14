"""One writer at a time: a lock per upload, which a later request takes over politely.

A client whose connection broke comes back before the server has noticed: the request that still
waits for the old connection is asked to stop, keeps what it has, and the new one goes on there.
"""

import secrets
import threading
import time
from types import TracebackType
from typing import Final, Self

import structlog

from tasks.errors import QueueUnavailableError
from tasks.uploads.errors import UploadLockedError
from tasks.uploads.store import UploadStore

#: Longer than a lock lasts, so that the upload of a killed process is had within one request.
WAIT_SECONDS: Final = 8.0
_RENEW_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.1
#: A holder that is asked to stop and got nothing from its client for so long loses the lock.
_IDLE_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class UploadLock:
    """Holds an upload's lock for a block of code, and renews it meanwhile.

    Raises:
        UploadLockedError: on entering, when nobody gave it up in time.
    """

    def __init__(
        self, store: UploadStore, upload_id: str, *, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._store = store
        self._upload_id = upload_id
        self._wait_seconds = wait_seconds
        self._ended = threading.Event()
        self._wanted = threading.Event()
        self._reading_since: float | None = None
        self._keeper = threading.Thread(target=self._keep, name="upload-lock", daemon=True)
        self.token = secrets.token_hex(8)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._wait_seconds
        while not self._store.lock(self._upload_id, self.token):
            if time.monotonic() > deadline:
                raise UploadLockedError("Another request is writing to this upload.")
            self._store.want(self._upload_id)
            time.sleep(_PAUSE_SECONDS)
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        try:
            self._store.unlock(self._upload_id, self.token)
        except QueueUnavailableError:
            _log.warning("upload.lock_left", upload_id=self._upload_id)
        self._keeper.join(timeout=_RENEW_SECONDS * 5)

    @property
    def wanted(self) -> bool:
        """Somebody waits for the lock: stop here, and keep what has come."""
        return self._wanted.is_set()

    def reading(self) -> None:
        """From here on this request waits for its client."""
        self._reading_since = time.monotonic()

    def working(self) -> None:
        """The client has sent something: what follows is the server's own work."""
        self._reading_since = None

    def _keep(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            try:
                if self._store.wanted(self._upload_id):
                    self._wanted.set()
                    if self._stands_still():
                        return
                if not self._store.renew(self._upload_id, self.token):
                    return
            except QueueUnavailableError:
                # Should it last, the lock runs out, and no write is taken any more.
                _log.warning("upload.lock_not_renewed", upload_id=self._upload_id)

    def _stands_still(self) -> bool:
        since = self._reading_since
        return since is not None and time.monotonic() - since > _IDLE_SECONDS
