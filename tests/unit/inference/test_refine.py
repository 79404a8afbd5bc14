"""Foreground estimation on composites whose foreground and matte are known."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from inference import refine_torch
from inference.refine import NEGLIGIBLE_ALPHA, estimate_foreground
from tests.support.paths import DATA

_SIZE = (600, 400)
#: Subject, the background that it was taken before.
_PAIRS = [("astronaut", "coffee"), ("chelsea", "astronaut"), ("coffee", "chelsea")]
#: `_error` of pymatting 1.1.16's `estimate_foreground_ml` for each pair. Its kernels take a minute
#: of processor time to compile where it is first imported, so only a full-size test imports it.
_PYMATTING = {"astronaut": 3.876, "chelsea": 3.287, "coffee": 2.698}

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]


def _photo(name: str) -> _Floats:
    with Image.open(DATA / f"{name}.jpg") as image:
        resized = image.convert("RGB").resize(_SIZE, Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)


def _hairy_matte(seed: int) -> _Floats:
    """A head with stray hair, slightly out of focus."""
    (width, height), rng = _SIZE, np.random.default_rng(seed)
    image = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(image)
    draw.ellipse((0.5 * width, 0.6 * height, 1.5 * width, 1.7 * height), fill=255)
    for angle in rng.uniform(0, 2 * np.pi, 200):
        x, y = width * (1 + 0.48 * np.cos(angle)), height * (1.15 + 0.53 * np.sin(angle))
        bend, length = angle + rng.normal(0, 0.5), rng.uniform(0.03, 0.12) * width
        end = (x + length * np.cos(bend), y + length * np.sin(bend))
        draw.line((x, y, *end), fill=int(rng.integers(120, 256)), width=int(rng.integers(1, 4)))
    half = image.resize(_SIZE, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(half, np.float32) / 255


def _over(foreground: _Floats, alpha: _Floats, background: _Floats) -> _Floats:
    return alpha[..., None] * foreground + (1 - alpha[..., None]) * background


def _case(seed: int) -> tuple[_Bytes, _Floats, _Floats]:
    subject, background = (_photo(name) for name in _PAIRS[seed])
    alpha = _hairy_matte(seed)
    taken = np.rint(_over(subject, alpha, background)).astype(np.uint8)
    return taken, alpha, subject


def _error(cutout: NDArray[np.generic], truth: _Floats, alpha: _Floats) -> float:
    """Mean absolute error, in levels, of composites over three new backgrounds' soft zones."""
    soft = (alpha > 0) & (alpha < 1)
    checks = np.indices(alpha.shape).sum(axis=0)[..., None] // 16 % 2 * np.full(3, 255.0)
    backgrounds = (np.full(3, 255.0), np.array([0.0, 160.0, 60.0]), checks)
    estimate = cutout.astype(np.float32)
    errors = [
        np.abs(np.rint(_over(estimate, alpha, new)) - np.rint(_over(truth, alpha, new)))[soft]
        for new in (background.astype(np.float32) for background in backgrounds)
    ]
    return float(np.mean(errors))


@pytest.mark.parametrize("seed", range(3))
def test_halves_the_error_of_the_naive_cutout_and_is_as_good_as_pymatting(seed: int) -> None:
    taken, alpha, truth = _case(seed)
    error = _error(estimate_foreground(taken, alpha), truth, alpha)
    assert error <= 0.5 * _error(taken, truth, alpha)
    assert error <= 1.1 * _PYMATTING[_PAIRS[seed][0]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:numba")
def test_the_figures_of_pymatting_are_its_own() -> None:
    pymatting = pytest.importorskip("pymatting")
    for seed, (subject, _) in enumerate(_PAIRS):
        taken, alpha, truth = _case(seed)
        estimate = pymatting.estimate_foreground_ml(taken / 255.0, alpha.astype(np.float64))
        error = _error(255 * estimate.clip(0, 1), truth, alpha)
        assert error == pytest.approx(_PYMATTING[subject], abs=0.01)


def test_leaves_all_else_and_its_input_alone() -> None:
    taken, alpha, _ = _case(0)
    before = taken.copy()
    refined = estimate_foreground(taken, alpha)
    hard = (alpha <= NEGLIGIBLE_ALPHA) | (alpha >= 1 - NEGLIGIBLE_ALPHA)
    np.testing.assert_array_equal(refined[hard], taken[hard])
    np.testing.assert_array_equal(taken, before)
    assert (refined[~hard] != taken[~hard]).any()


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (2, 1), (1, 700), (700, 1), (3, 2000), (257, 256)]
)
def test_every_size_will_do(height: int, width: int) -> None:
    rng = np.random.default_rng(height * width)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    alpha = rng.random((height, width), np.float32)
    alpha[rng.random((height, width)) < 0.3] = 0
    revealed = rng.random((height, width)) < 0.5
    alpha.flags.writeable = rgb.flags.writeable = False
    ours = estimate_foreground(rgb, alpha, revealed)
    tensors = map(torch.tensor, (rgb, alpha, revealed))
    theirs = refine_torch.estimate_foreground(*tensors).numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 1
