"""The self-test passes a model that finds the subject, and no other."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from inference.errors import ModelError
from inference.models.base import Alpha, MattingModel, Rgb
from inference.models.selftest import check_model_output


def _check(name: str, answer: Callable[[Rgb], Alpha]) -> None:
    """Check a model that answers this."""
    model = SimpleNamespace(name=name, matte=lambda images: [answer(image) for image in images])
    check_model_output(model)


def _full(value: float) -> Callable[[Rgb], Alpha]:
    return lambda image: np.full(image.shape[:2], value, np.float32)


def _half(image: Rgb) -> Alpha:
    matte = np.zeros(image.shape[:2], np.float32)
    matte[:, : image.shape[1] // 2] = 1
    return matte


def _noise(image: Rgb) -> Alpha:
    return np.random.default_rng(7).random(image.shape[:2], np.float32)


def _partly_nan(image: Rgb) -> Alpha:
    matte = _half(image)
    matte[0, 0] = np.nan
    return matte


def test_the_small_model_passes_and_upside_down_it_fails(u2netp: MattingModel) -> None:
    check_model_output(u2netp)
    with pytest.raises(ModelError, match="differs by"):
        _check("u2netp", lambda image: u2netp.matte([image])[0][::-1])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (_full(0), "0.00 everywhere"),
        (_full(1), "1.00 everywhere"),
        (_partly_nan, "not finite"),
        (lambda image: 2 * _half(image), "must be 0 to 1"),
        (lambda image: _half(image)[1:], r"shape \(95, 96\)"),
    ],
)
@pytest.mark.parametrize("name", ["u2netp", "unknown"])
def test_what_is_no_matte_fails(name: str, answer: Callable[[Rgb], Alpha], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        _check(name, answer)


@pytest.mark.parametrize("answer", [_half, _noise, lambda image: 1 - _half(image)])
def test_another_matte_than_the_known_one_fails(answer: Callable[[Rgb], Alpha]) -> None:
    _check("unknown", answer)
    with pytest.raises(ModelError, match="differs by"):
        _check("u2netp", answer)
