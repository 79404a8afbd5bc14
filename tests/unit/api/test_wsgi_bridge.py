"""How the bridge shares its threads among callers."""

import asyncio
import threading
from typing import Any

import pytest
from flask import Flask

from api.wsgi_bridge import CONNECTION, WsgiBridge

_THREADS = 4


async def _ask(bridge: WsgiBridge, path: str, **headers: str) -> int:
    """Send a request without a body; its status."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {
        "method": "GET",
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": given,
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
        "extensions": {CONNECTION: None},
    }
    await bridge(scope, asyncio.Event().wait, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize("name", ["x_api_key", "authorization"])
def test_a_caller_whose_requests_are_slow_leaves_threads_to_others(name: str) -> None:
    app, running, go_on = Flask(__name__), threading.Semaphore(0), threading.Event()

    @app.get("/slow")
    def slow() -> str:
        running.release()
        assert go_on.wait(30)
        return ""

    app.add_url_rule("/quick", view_func=lambda: "")

    async def crowd(bridge: WsgiBridge) -> list[int]:
        slow = [asyncio.ensure_future(_ask(bridge, "/slow", **{name: "a"})) for _ in range(20)]
        for _ in range(_THREADS // 2):
            await asyncio.to_thread(running.acquire)
        others = [await _ask(bridge, "/quick", **given) for given in ({name: "b"}, {})]
        # One that waits for a turn may be given up; its turn goes to the next.
        slow.pop().cancel()
        assert not running.acquire(blocking=False)
        go_on.set()
        return others + await asyncio.gather(*slow)

    with WsgiBridge(app, threads=_THREADS) as bridge:
        assert asyncio.run(crowd(bridge)) == [200] * 21
