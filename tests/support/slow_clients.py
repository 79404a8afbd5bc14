"""Slow and silent clients: many connections that come back as soon as the server closes them.

`python -m tests.support.slow_clients PORT KEY SHARE KINDS` attacks from a process of its own, with
the fields of each `SlowClient` by its name as JSON. It prints a line once all its connections are
there, and goes on until a line comes on its standard input. Then it waits for the server to close
what is left, and prints each kind's `Outcome` as JSON.
"""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Final

_HEAD: Final = "POST %s HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
_FORM: Final = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000000\r\n\r\n"
_CHUNK: Final = (
    "Tus-Resumable: 1.0.0\r\nUpload-Length: 5000000\r\nContent-Length: 5000000\r\n"
    "Content-Type: application/offset+octet-stream\r\n\r\n"
)
#: By then the server has to have closed every connection.
LEFT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class SlowClient:
    """What a client sends, and how many of them there are.

    Attributes:
        count: connections at full size.
        begin: sent at once; `{key}` stands for an API key.
        drip: sent again and again after that.
        seconds: between two of these.
        per_second: connections that are opened each second beside those that are open; 0 for a
            constant number of open ones.
        statuses: with which the server ends them.
        reads: it reads answers to their end, not only what a refusal has.
        again: connections that take the place of ended ones in 50 ms, once all have been there.
    """

    count: int
    begin: str = ""
    drip: str = ""
    seconds: float = 4.0
    per_second: int = 0
    statuses: tuple[str, ...] = ("408",)
    reads: bool = True
    again: int = 3


SLOW_CLIENTS: Final[Mapping[str, SlowClient]] = {
    "half a request line": SlowClient(400, "GET /api/v1/in"),
    "dripping head": SlowClient(200, "GET /api/v1/info HTTP/1.1\r\n", "X-A: b\r\n"),
    "slow form": SlowClient(200, _HEAD % "/api/v1/remove-bg" + _FORM, "x"),
    "slow batch": SlowClient(200, _HEAD % "/api/v1/remove-bg/batch" + _FORM, "x"),
    "slow upload": SlowClient(200, _HEAD % "/api/v1/uploads" + _CHUNK, "x"),
    "body that never comes": SlowClient(400, _HEAD % "/api/v1/remove-bg" + _FORM),
    "body without a key": SlowClient(
        200,
        (_HEAD % "/api/v1/remove-bg").replace("{key}", "guessed") + _FORM,
        "x",
        statuses=("401",),
    ),
    "60 new silent ones a second": SlowClient(600, per_second=60),
}


@dataclass(slots=True)
class Outcome:
    """How an attack ended.

    Attributes:
        opened: connections in all.
        most: connections at once.
        statuses: of the server's answers.
        errors: their types.
        left: connections that the server had not closed in the time that was given.
        seconds: until the last one was closed, once none came back.
    """

    opened: int = 0
    most: int = 0
    statuses: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    left: int = 0
    seconds: float = 0.0


#: What is kept of an answer.
_ANSWER_BYTES: Final = 4096
_ERROR: Final = re.compile(rb'"error":\s*\{[^}]*"type":\s*"(\w+)"')
#: Connections that are opened in 50 ms until all have been there.
_AT_FIRST: Final = 20


class _Attack:
    """All connections of one kind."""

    def __init__(self, kind: SlowClient, port: int, key: str, share: float) -> None:
        self.kind, self.full, self.seconds = kind, asyncio.Event(), LEFT_SECONDS
        self._begin = kind.begin.replace("{key}", key).encode()
        self._port, self._count = port, round(kind.count * share)
        self._pause = 1 / (kind.per_second * share) if kind.per_second else 0.05
        self._open, self._outcome = set[asyncio.Task[None]](), Outcome()
        self._statuses, self._errors = set[str](), set[str]()

    async def run(self, stop: asyncio.Event) -> Outcome:
        while not stop.is_set():
            most = self.kind.again if self.full.is_set() else _AT_FIRST
            missing = 1 if self.kind.per_second else min(most, self._count - len(self._open))
            for _ in range(missing):
                self._open.add(connection := asyncio.ensure_future(self._connect()))
                connection.add_done_callback(self._open.discard)
            await asyncio.sleep(self._pause)
        began = time.monotonic()
        if self._open:
            await asyncio.wait(self._open, timeout=self.seconds)
        self._outcome.left = len(self._open)
        self._outcome.seconds = round(time.monotonic() - began, 1)
        self._outcome.statuses = sorted(self._statuses - {""})
        self._outcome.errors = sorted(self._errors)
        return self._outcome

    async def _connect(self) -> None:
        """Open a connection, and keep it until the server closes it."""
        try:
            # Nobody reads more than twice the limit.
            reading, to = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=_ANSWER_BYTES // 2
            )
        except OSError:
            self._statuses.add("refused")
            return
        self._outcome.opened += 1
        self._outcome.most = max(self._outcome.most, len(self._open))
        if self._outcome.opened >= self._count or self.kind.per_second:
            self.full.set()
        to.write(self._begin)
        dripping, answer = asyncio.ensure_future(self._drip(to)), b""
        with suppress(ConnectionError):
            answer = await reading.read(_ANSWER_BYTES)
            if answer and not self.kind.reads:
                await to.wait_closed()
            while piece := await reading.read(_ANSWER_BYTES):
                answer += piece[: _ANSWER_BYTES - len(answer)]
        dripping.cancel()
        to.close()
        self._statuses.add(answer[9:12].decode())
        self._errors |= {found.decode() for found in _ERROR.findall(answer)}

    async def _drip(self, to: asyncio.StreamWriter) -> None:
        while self.kind.drip:
            await asyncio.sleep(self.kind.seconds)
            to.write(self.kind.drip.encode())


@dataclass(slots=True)
class RunningAttack:
    """An attack in a process of its own."""

    process: subprocess.Popen[str]

    def stop(self, *, seconds: float = LEFT_SECONDS) -> dict[str, Outcome]:
        """Open no more connections, wait until the server has closed all; outcomes by kind."""
        output, _ = self.process.communicate(f"{seconds}\n", timeout=seconds + 30)
        return {kind: Outcome(**each) for kind, each in json.loads(output).items()}


@contextmanager
def attacking(
    port: int, key: str, kinds: Mapping[str, SlowClient] = SLOW_CLIENTS, *, share: float = 1.0
) -> Iterator[RunningAttack]:
    """Attack with a share of the full size while the block runs; all are connected then."""
    fields = json.dumps({name: asdict(kind) for name, kind in kinds.items()})
    arguments = [str(port), key, str(share), fields]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.slow_clients", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield RunningAttack(process)
    finally:
        process.kill()
        process.communicate()


async def _main(port: str, key: str, share: str, fields: str) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    kinds = {name: SlowClient(**each) for name, each in json.loads(fields).items()}
    attacks = [_Attack(kind, int(port), key, float(share)) for kind in kinds.values()]
    running = asyncio.gather(*(each.run(stop) for each in attacks))
    for each in attacks:
        await each.full.wait()
    _say("attacking")

    def read_line() -> None:
        seconds = float(sys.stdin.readline())
        for each in attacks:
            each.seconds = seconds
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read_line, daemon=True).start()
    outcomes = zip(kinds, map(asdict, await running), strict=True)
    _say(json.dumps(dict(outcomes)))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
