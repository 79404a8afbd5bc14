"""Shares of places and time: no caller has all, and busy ones leave a new one some."""

import asyncio
from asyncio import Event, Task
from contextlib import AsyncExitStack
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


def test_two_callers_who_ask_for_all_places_leave_some_to_others_and_all_take_turns() -> None:
    async def crowd() -> None:
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

    asyncio.run(crowd())


def test_a_place_that_was_given_to_one_who_no_longer_waits_goes_to_the_next() -> None:
    async def crowd() -> None:
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

    asyncio.run(crowd())


class _Time:
    """Shares of a time that stands still but where a test lets it pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 100.0, list[float]()
        self.shares = TimeShares(lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def call(self, caller: str, seconds: float) -> float:
        """Make a call that takes so long of the processor; how long it had to wait."""

        async def call() -> None:
            async with self.shares.turn(caller) as taken:
                taken.append(seconds)

        asyncio.run(call())
        return self.waits[-1]


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> _Time:
    return _Time(monkeypatch)


def test_a_caller_that_asks_alone_has_all_of_the_time(passing: _Time) -> None:
    assert {passing.call("a", 1.0) for _ in range(20)} == {0.0}


def test_a_caller_that_asks_on_and_on_has_half_of_the_time_while_another_asks(
    passing: _Time,
) -> None:
    began, spent = passing.now, 0.0
    while passing.now < began + 20:
        assert passing.call("other", 0.001) == 0.0
        passing.now += max(0.01, passing.call("greedy", 0.01))
        spent += 0.01
    assert spent == pytest.approx(0.5 * 20, rel=0.05)
    passing.now += 2.1
    passing.call("greedy", 5.0)
    assert passing.call("greedy", 0.01) == 0.0, "it asks alone now"


def test_requests_that_come_at_once_begin_one_after_the_other(passing: _Time) -> None:
    passing.call("other", 0.0)
    for _ in range(40):
        passing.call("greedy", 0.01)

    async def crowd() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(passing.shares.turn("greedy"))

    passing.waits.clear()
    asyncio.run(crowd())
    between = [after - before for before, after in pairwise(passing.waits)]
    assert between == [pytest.approx(0.02, rel=0.05)] * 49


def test_callers_without_a_debt_are_forgotten(passing: _Time) -> None:
    async def crowd() -> None:
        for number in range(10_000):
            async with passing.shares.turn(f"from {number}") as taken:
                taken.append(0.001)
            passing.now += 0.01

    asyncio.run(crowd())
    assert len(passing.shares._used) < 5000
