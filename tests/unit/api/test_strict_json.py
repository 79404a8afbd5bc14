import json

import pytest

from api.forms import read_json


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "NaN",
        '{"a": Infinity}',
        '"\\ud800"',
        '{"\\udfff": 1}',
        "[" * 100_000,
        "[" * 33 + "]" * 33,
        b"\xff\xfe\xfd",
    ],
    ids=lambda text: repr(text)[:20],
)
def test_what_could_not_be_written_again_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_json(text)


@pytest.mark.parametrize("value", [None, {"a": [1, 2.5, "ü€😀", True]}, [[[[[]]]]], "x" * 100_000])
def test_the_rest_comes_back_whole(value: object) -> None:
    assert read_json(json.dumps(value)) == value
