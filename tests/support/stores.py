"""Object stores that let a test see, or interrupt, what is done with the real one."""

from collections.abc import Callable
from typing import Any

from tasks.object_store import ObjectStore


class WatchedStore:
    """The real store, with a note of each call and something that happens after each `put`.

    Attributes:
        calls: the methods that were called, each with the texts that it was given.
    """

    def __init__(
        self, store: ObjectStore, after_put: Callable[[str], object] = lambda _: None
    ) -> None:
        self._store, self._after_put = store, after_put
        self.calls: list[tuple[str, ...]] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method
        method = getattr(self._store, name)
        if not callable(method):
            return method

        def call(*given: Any, **more: Any) -> Any:  # noqa: ANN401 - as the method's
            self.calls.append((name, *(each for each in given if isinstance(each, str))))
            result = method(*given, **more)
            if name == "put":
                self._after_put(given[0])
            return result

        return call

    def named(self, method: str) -> list[str]:
        """Return the keys that a method was called with."""
        return [call[1] for call in self.calls if call[0] == method]
