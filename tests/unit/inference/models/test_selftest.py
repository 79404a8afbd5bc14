"""The self-test passes a model that finds the subject, and no other."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from inference.errors import ModelError
from inference.models.base import Alpha, MattingModel, Rgb
from inference.models.selftest import check_model_output

_Answer = Callable[[Rgb], Alpha]


def _check(name: str, answer: _Answer) -> None:
    """Check a model that answers this."""
    model = SimpleNamespace(name=name, matte=lambda images: [answer(image) for image in images])
    check_model_output(model)


def _half(image: Rgb) -> Alpha:
    matte = np.zeros(image.shape[:2], np.float32)
    matte[:, : image.shape[1] // 2] = 1
    return matte


def test_the_small_model_passes_and_upside_down_it_fails(u2netp: MattingModel) -> None:
    check_model_output(u2netp)
    with pytest.raises(ModelError, match="differs by"):
        _check("u2netp", lambda image: u2netp.matte([image])[0][::-1])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda image: 0 * _half(image), "0.00 everywhere"),
        (lambda image: 0 * _half(image) + 1, "1.00 everywhere"),
        (lambda image: np.where(_half(image), np.nan, 0), "not finite"),
        (lambda image: 2 * _half(image), "must be 0 to 1"),
        (lambda image: _half(image)[1:], r"shape \(95, 96\)"),
    ],
)
@pytest.mark.parametrize("name", ["u2netp", "unknown"])
def test_what_is_no_matte_fails(name: str, answer: _Answer, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        _check(name, answer)


@pytest.mark.parametrize("answer", [_half, lambda image: 1 - _half(image)])
def test_another_matte_than_the_known_one_fails(answer: _Answer) -> None:
    _check("unknown", answer)
    with pytest.raises(ModelError, match="differs by"):
        _check("u2netp", answer)
