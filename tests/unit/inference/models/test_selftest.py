"""The self-test passes a model that finds the subject, and no other."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from inference.errors import ModelError
from inference.models.base import Alpha, MattingModel, Rgb, StageHook, no_stages
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.models.selftest import check_model_output


class Model:
    """Answers what it was given to answer."""

    def __init__(self, name: str, answer: Callable[[Rgb], Alpha]) -> None:
        self.name = name
        self._answer = answer

    def warm_up(self) -> None:
        pass

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("inference"):
            return [self._answer(image) for image in images]


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


@pytest.fixture(scope="module")
def u2netp(u2netp_file: Path) -> MattingModel:
    return load_model(get_spec("u2netp"), u2netp_file, device="cpu", threads=1)


def test_the_small_model_sees(u2netp: MattingModel) -> None:
    check_model_output(u2netp)


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
        check_model_output(Model(name, answer))


@pytest.mark.parametrize("answer", [_half, _noise, lambda image: 1 - _half(image)])
def test_another_matte_than_the_known_one_fails(answer: Callable[[Rgb], Alpha]) -> None:
    check_model_output(Model("unknown", answer))
    with pytest.raises(ModelError, match="differs by"):
        check_model_output(Model("u2netp", answer))


def test_the_small_model_upside_down_fails(u2netp: MattingModel) -> None:
    def upside_down(image: Rgb) -> Alpha:
        return u2netp.matte([image])[0][::-1]

    with pytest.raises(ModelError, match="differs by"):
        check_model_output(Model("u2netp", upside_down))
