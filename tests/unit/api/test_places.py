"""Shares of places: no owner has all of them, and no number of busy ones leaves a new one none."""

import pytest

from api.places import Places


@pytest.mark.parametrize(
    ("number", "asking", "placed"),
    [
        (8, "aaaaaa", "aaaa"),
        (8, "aaaaaabbbbbccccdddefg", "aaaabbcd"),
        (8, "abcdefgh", "abcdefgh"),
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
