"""Shares of places and time: no caller has all, and busy ones leave a new one some."""

import asyncio
from asyncio import Event, Task
from itertools import pairwise

import pytest

from api.places import Places, TimeShares, Turns


@pytest.mark.parametrize(
    ("number", "asking", "placed"),
    [
        (8, "aaaaaabbbbbccccdddefg", "aaaabbcd"),
        (8, "aabbccddeeffgghh", "aabbccde"),
        (1, "ab", "a"),
        (0, "a", ""),
    ],
)
def test_owners_share_the_places(number: int, asking: str, placed: str) -> None:
    places = Places(number)
    assert "".join(owner for owner in asking if places.take(owner)) == placed
    for owner in placed:
        places.give_back(owner)
    assert "".join(owner for owner in asking if places.take(owner)) == placed


def test_a_place_is_given_back_with_the_end_of_its_block() -> None:
    places = Places(2)
    for _ in range(3):
        with places.hold("a") as first, places.hold("a") as second:
            assert (first, second) == (True, False)


class Crowd:
    """Tasks of an event loop that each hold a place until they are told to end."""

    def __init__(self, number: int) -> None:
        self.turns = Turns(number)
        self.running: list[tuple[str, Event]] = []
        self.tasks: list[tuple[str, Task[None]]] = []

    async def come(self, callers: str) -> str:
        """Have these callers ask for places; return all that run, in order."""
        self.tasks += [(each, asyncio.ensure_future(self._hold(each))) for each in callers]
        return await self.settled()

    async def go(self, callers: str) -> str:
        """Have one running task of each of these callers end; return all that run."""
        for caller in callers:
            found = next(each for each in self.running if each[0] == caller)
            self.running.remove(found)
            found[1].set()
            await self.settled()
        return await self.settled()

    async def settled(self) -> str:
        for _ in range(20):
            await asyncio.sleep(0)
        return "".join(caller for caller, _ in self.running)

    async def _hold(self, caller: str) -> None:
        async with self.turns.turn(caller):
            end = Event()
            self.running.append((caller, end))
            await end.wait()


async def test_two_callers_who_ask_for_all_places_leave_some_to_others_and_all_take_turns() -> None:
    places = Crowd(8)
    assert await places.come("a" * 20 + "b" * 20) == "aaaabb"
    assert await places.come("cccd") == "aaaabbcd"
    # The latest one comes before those that wait and have some.
    assert await places.come("e") == "aaaabbcd"
    assert await places.go("a") == "aaabbcde"
    assert await places.go("cde") == "aaabbc"
    assert await places.go("b") == "aaabca"
    assert await places.go("b") == "aaacab"
    assert await places.go("c") == "aaaabc"


async def test_a_place_that_was_given_to_one_who_no_longer_waits_goes_to_the_next() -> None:
    places = Crowd(2)
    assert await places.come("aab") == "ab"
    given_up = places.tasks[1][1]
    given_up.cancel()
    await places.settled()
    assert await places.come("a") == "ab"
    assert await places.go("a") == "ba"
    # Canceled in the same moment as its turn comes.
    assert await places.come("aa") == "ba"
    places.running[1][1].set()
    places.tasks[4][1].cancel()
    places.running.pop()
    assert await places.settled() == "ba"
    assert await places.go("ba") == ""
    assert await places.come("bb") == "b"


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose time goes on when nothing else is to be done."""

    now = 100.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": _Loop}


class _Callers:
    """Callers that share a process's time."""

    def __init__(self) -> None:
        self.time = asyncio.get_running_loop().time
        self.shares = TimeShares(self.time)
        self.began = self.time()

    def seconds(self) -> float:
        """How long it took since the last call of this."""
        before, self.began = self.began, self.time()
        return self.began - before

    async def call(self, caller: str, seconds: float) -> float:
        """Make a call that takes so long of the processor; when it began."""
        async with self.shares.turn(caller) as taken:
            began = self.time()
            await asyncio.sleep(seconds)
            taken.append(seconds)
        return began

    async def now_and_then(self) -> None:
        """Ask as another caller, which never waits."""
        while True:
            before = self.time()
            assert await self.call("other", 0.001) == before
            await asyncio.sleep(0.1)


async def test_a_caller_that_asks_alone_has_all_of_the_time() -> None:
    callers = _Callers()
    for _ in range(20):
        await callers.call("a", 1.0)
    assert callers.seconds() == pytest.approx(20)


async def test_a_caller_has_a_quarter_of_the_time_while_another_asks_and_all_after_that() -> None:
    callers = _Callers()
    asking = asyncio.ensure_future(callers.now_and_then())
    for _ in range(1000):
        await callers.call("greedy", 0.01)
    assert not asking.done()
    asking.cancel()
    assert callers.seconds() == pytest.approx(40, rel=0.05)
    await asyncio.sleep(3)
    assert callers.seconds() == 3
    for _ in range(1000):
        await callers.call("greedy", 0.01)
    assert callers.seconds() == pytest.approx(10)


async def test_calls_that_come_at_once_begin_one_after_the_other() -> None:
    callers = _Callers()
    asking = asyncio.ensure_future(callers.now_and_then())
    for _ in range(60):
        await callers.call("greedy", 0.01)
    crowd = [asyncio.ensure_future(callers.call("greedy", 0.01)) for _ in range(50)]
    await asyncio.sleep(0.01)
    crowd.pop(20).cancel()  # it is given up; the next ones go on
    begins = await asyncio.gather(*crowd)
    asking.cancel()
    between = [after - before for before, after in pairwise(begins)]
    assert sum(between) / len(between) == pytest.approx(0.04, rel=0.1)
    assert max(between) < 0.09


async def test_calls_that_wait_begin_once_nobody_else_asks() -> None:
    callers = _Callers()
    await callers.call("greedy", 1.0)
    await callers.call("other", 0.0)
    await asyncio.gather(*(callers.call("greedy", 1.0) for _ in range(100)))
    assert callers.seconds() < 10


async def test_callers_without_a_debt_are_forgotten() -> None:
    callers = _Callers()
    for number in range(10_000):
        await callers.call(f"from {number}", 0.001)
        await asyncio.sleep(0.01)
    assert len(callers.shares._used) < 5000
