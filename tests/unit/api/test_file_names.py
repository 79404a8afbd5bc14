import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.file_names import numbered_names, safe_stem


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["a.jpg", "a.png", "A.webp"], ["a.png", "a-2.png", "A-3.png"]),
        (["a-2.jpg", "a.jpg", "a.png"], ["a-2.png", "a.png", "a-3.png"]),
        (["a", "a", "a-2", "a", "A-2"], ["a.png", "a-2.png", "a-2-2.png", "a-3.png", "A-2-3.png"]),
        (["../../etc/passwd", "C:\\photos\\x.jpg", "/"], ["passwd.png", "x.png", "image.png"]),
        (["", "..", ".jpg", "a\x00b?.jpg"], ["image.png", "image-2.png", "jpg.png", "a-b.png"]),
        (["фото кота №1.jpg", "猫.jpg"], ["фото кота №1.png", "猫.png"]),
        (["CON.png", "lpt1.tar.gz", "console.jpg"], ["_CON.png", "_lpt1.tar.png", "console.png"]),
        (["con .x.png", "COM¹.png", "conin$"], ["_con .x.png", "_COM¹.png", "_conin$.png"]),
        (["e\u0301.jpg", "\xe9.jpg"], ["\xe9.png", "\xe9-2.png"]),
        (["gpj.\u202eevil.jpg", "\udcff.jpg"], ["gpj.-evil.png", "image.png"]),
    ],
)
def test_names_are_those_of_the_inputs_made_safe(inputs: list[str], names: list[str]) -> None:
    assert list(numbered_names((name, "png") for name in inputs)) == names


def test_each_of_the_largest_batch_has_a_name_though_all_are_called_the_same() -> None:
    # Counted from 1 for each of them, they took 30 s.
    *_, last = numbered_names([("a.jpg", "png")] * 10_000)
    assert last == "a-10000.png"


@pytest.mark.parametrize("letter", ["x", "ж", "猫", "\N{CAT}"])
def test_a_long_name_is_cut_by_its_bytes(letter: str) -> None:
    first, second = numbered_names([(letter * 1000 + ".jpg", "webp")] * 2)
    assert first.startswith(letter * 50)
    assert max(len(each.encode()) for each in (first, second)) < 255
    assert safe_stem("x" * 1_000_000)


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_any_file_system_can_hold(name: str) -> None:
    stem = safe_stem(name)
    assert 1 <= len(stem.encode()) <= 201
    assert unicodedata.is_normalized("NFC", stem)
    assert not set(stem) & set('<>:"/\\|?*\r\n\0')
    assert stem == stem.strip(" .-")
