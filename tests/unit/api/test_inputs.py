import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.inputs import safe_stem


@pytest.mark.parametrize(
    ("given_name", "stem"),
    [
        ("photo.jpg", "photo"),
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\me\cat picture.jpeg", "cat-picture"),
        ('x"; filename="evil.html', "x-filename-evil"),
        ("", "image"),
        ("....", "image"),
        ("фото.png", "image"),
    ],
)
def test_client_file_names_are_made_safe(given_name: str, stem: str) -> None:
    assert safe_stem(given_name) == stem


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_fits_a_header(name: str) -> None:
    stem = safe_stem(name)
    assert 1 <= len(stem) <= 80
    assert stem.isascii()
    assert not set(stem) & set("\"'\\/\r\n;")
