"""Starts services together, notices when one cannot be started, ends them in order."""

import asyncio
from collections.abc import Collection, Iterable
from itertools import groupby

from deploy.local.child import HOPELESS_DEATHS, Backoff, Child, LineSink, State
from deploy.local.errors import StartError
from deploy.local.services import Service


class Supervisor:
    """Keeps services running until `stop`; to be used from one event loop.

    Args:
        sink: is given every line.
        backoff: seconds between a death and the restart.
        inherited: file descriptors that stay open in all children.
    """

    def __init__(
        self, sink: LineSink, *, backoff: Backoff | None = None, inherited: Collection[int] = ()
    ) -> None:
        self._sink = sink
        self._backoff = backoff or Backoff()
        self._inherited = inherited
        self._keepers: dict[Child, asyncio.Task[None]] = {}

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, in the order of their start."""
        return tuple(self._keepers)

    async def start(self, services: Iterable[Service], *, seconds: float) -> None:
        """Start these side by side, and wait until all have been ready.

        Raises:
            StartError: one was not in time, or keeps dying; the text holds its last lines.
        """
        batch = [self._keep(service) for service in services]
        await asyncio.gather(*(_until_ready(child, seconds) for child in batch))

    async def failure(self) -> None:
        """Wait until the supervision itself of some child breaks, and raise why."""
        keepers = self._keepers.values()
        done, _ = await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
        for keeper in done:
            keeper.result()

    async def stop(self) -> None:
        """End all, stage after stage, each within its grace time."""
        ordered = sorted(self._keepers, key=_stage)
        for _, stage in groupby(ordered, key=_stage):
            await self._stop(list(stage))

    def kill(self) -> None:
        """End all at once, without grace."""
        for child in self._keepers:
            child.kill()

    def _keep(self, service: Service) -> Child:
        child = Child(service, self._sink, backoff=self._backoff, inherited=self._inherited)
        self._keepers[child] = asyncio.create_task(child.run())
        return child

    async def _stop(self, children: list[Child]) -> None:
        for child in children:
            child.stop()
        # A keeper that broke has ended its child all the same; the rest must still be ended.
        keepers = (self._keepers[child] for child in children)
        await asyncio.gather(*keepers, return_exceptions=True)


def _stage(child: Child) -> int:
    return child.service.stop_stage


async def _until_ready(child: Child, seconds: float) -> None:
    try:
        await asyncio.wait_for(child.settled.wait(), seconds)
    except TimeoutError:
        what = f"is not ready after {seconds:.0f} s: {child.reason}"
        raise StartError(_with_last_lines(child, what)) from None
    if child.state is not State.READY and child.deaths >= HOPELESS_DEATHS:
        raise StartError(_with_last_lines(child, f"ended {child.deaths} times while starting"))


def _with_last_lines(child: Child, what: str) -> str:
    lines = "\n".join(f"    {line}" for line in child.lines)
    return f"{child.service.name} {what}.\n{lines}".rstrip()
