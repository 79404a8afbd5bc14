"""Estimate the foreground: the subject's own color in soft edges, without the old background.

A pixel of a photo is I = a F + (1 - a) B: where the matte a is between 0 and 1, its color contains
some of the background B, and a cutout that keeps I shows a halo. F is estimated by the idea of
Germer, Uelwer, Conrad and Harmeling, "Fast Multi-Level Foreground Estimation" (2020,
https://arxiv.org/abs/2006.14970): minimise

    |a F + (1 - a) B - I|**2 + sum over neighbors j of w_j (|F - F_j|**2 + |B - B_j|**2),
    w_j = r + |a - a_j|,

from coarse levels to fine ones. The fine levels are left out here: beyond a few hundred pixels a
side, F and B are interpolated from the last level, and only the data term is solved for, only in
the soft zone. On composites with a known foreground that is as good, in a tenth of the time.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

#: The longest side of the solver's finest level, pixels.
SOLVER_SIDE = 256
#: Less than two levels of 255: a matte below this shows nothing of the picture, and a matte above
#: its complement shows nothing of the background.
NEGLIGIBLE_ALPHA = np.float32(1.5 / 255)
#: r of the formula: the weight of a neighbor where the matte is flat.
SMOOTHNESS = 1e-5

# Jacobi passes: many on levels up to this side, where they are cheap, and few on finer ones.
_SMALL_SIDE, _SMALL_PASSES, _PASSES = 64, 15, 3
_CHUNK_PIXELS = 32_768  # soft pixels handled at a time: what fits into a core's cache

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]
_Flags = NDArray[np.bool_]


@runtime_checkable
class ForegroundEstimator(Protocol):
    """A model that estimates the foreground on its own device, such as a GPU."""

    def estimate_foreground(
        self, rgb: _Bytes, alpha: _Floats, revealed: _Flags | None = None
    ) -> _Bytes:
        """Do what `inference.refine.estimate_foreground` does."""
        ...


def estimate_foreground(
    rgb: _Bytes, alpha: _Floats, revealed: _Flags | None = None, *, threads: int = 2
) -> _Bytes:
    """Remove the old background's share from the colors of soft pixels.

    Args:
        rgb: (height, width, 3), 0..255.
        alpha: (height, width), 0..1.
        revealed: pixels that are to be seen although the matte is 0 there; they get the subject's
            color too.
        threads: number of threads to use.

    Returns:
        (height, width, 3), a new array; equal to `rgb` where the matte is almost 0 or 1.
    """
    result = rgb.copy()
    shown = alpha > NEGLIGIBLE_ALPHA
    if revealed is not None:
        shown |= revealed
    soft = np.flatnonzero(shown & (alpha < 1 - NEGLIGIBLE_ALPHA))
    if not len(soft):
        return result
    step = sampling_step(*alpha.shape)
    sampled = slice(step // 2, None, step)
    colors = rgb[sampled, sampled].transpose(2, 0, 1).astype(np.float32, order="C")
    pair = _solve(colors, np.ascontiguousarray(alpha[sampled, sampled], np.float32))
    coarse = _CoarseSolution.of(pair, step, alpha.shape)
    fill = partial(_solve_soft_pixels, result.reshape(-1, 3), alpha, coarse)
    with ThreadPoolExecutor(threads) as pool:  # numpy computes outside the interpreter lock
        chunks = (soft[at : at + _CHUNK_PIXELS] for at in range(0, len(soft), _CHUNK_PIXELS))
        list(pool.map(fill, chunks))
    return result


def sampling_step(height: int, width: int) -> int:
    """Return the distance of the solver's samples in pixels; the first lies at half of it."""
    return min(-(-max(height, width) // SOLVER_SIDE), 2 * min(height, width) - 1)


def solver_levels(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield (height, width, passes) of the solver's levels, from the coarsest to the given size."""
    for halvings in reversed(range((max(height, width) - 1).bit_length() + 1)):
        rows, cols = -(-height // 2**halvings), -(-width // 2**halvings)
        yield rows, cols, _SMALL_PASSES if max(rows, cols) <= _SMALL_SIDE else _PASSES


def _solve(colors: _Floats, alpha: _Floats) -> _Floats:
    """Return F and B, (6, height, width), of a picture (3, height, width) and its matte."""
    pair = np.tile(colors.mean(axis=(1, 2), keepdims=True), (2, 1, 1))
    for rows, cols, passes in solver_levels(*alpha.shape):
        level_alpha = _resize_nearest(alpha[None], rows, cols)[0]
        pair = _resize_nearest(pair, rows, cols)
        _relax(pair, _resize_nearest(colors, rows, cols), level_alpha, passes)
    return pair


def _resize_nearest(x: _Floats, rows: int, cols: int) -> _Floats:
    """Resize (n, height, width) to (n, rows, cols)."""
    at_rows = np.arange(rows) * x.shape[1] // rows
    at_cols = np.arange(cols) * x.shape[2] // cols
    # One axis after the other: three times as fast as both at once.
    resized: _Floats = x.take(at_rows, axis=1).take(at_cols, axis=2)
    return resized


def _relax(pair: _Floats, colors: _Floats, alpha: _Floats, passes: int) -> None:
    """Run Jacobi passes over one level, in place.

    With m the weighted mean of the neighbors and w the sum of their weights, a pixel's minimum is
    F = m_F + a (I - a m_F - b m_B) / (w + a a + b b), b = 1 - a, and B likewise.
    """
    r = np.float32(SMOOTHNESS)
    across = r + np.abs(np.diff(alpha, axis=1))
    down = r + np.abs(np.diff(alpha, axis=0))
    # A pixel is a neighbor of itself with the weight r, so that no sum of weights is zero.
    total = np.pad(across, ((0, 0), (1, 0))) + np.pad(across, ((0, 0), (0, 1)))
    total += np.pad(down, ((1, 0), (0, 0))) + np.pad(down, ((0, 1), (0, 0))) + r
    rest = 1 - alpha
    scale = total + alpha * alpha + rest * rest
    mean, scratch, residual = np.empty_like(pair), np.empty_like(pair), np.empty_like(colors)
    for _ in range(passes):
        _weighted_sum(pair, across, down, mean, scratch)
        mean /= total
        np.subtract(colors, np.multiply(mean[:3], alpha, out=scratch[:3]), out=residual)
        residual -= np.multiply(mean[3:], rest, out=scratch[3:])
        residual /= scale
        mean[:3] += np.multiply(residual, alpha, out=scratch[:3])
        mean[3:] += np.multiply(residual, rest, out=scratch[3:])
        np.clip(mean, 0, 255, out=pair)


def _weighted_sum(
    x: _Floats, across: _Floats, down: _Floats, out: _Floats, scratch: _Floats
) -> None:
    """Sum the four neighbors, each times the weight of the edge to it, and r times x itself."""
    np.multiply(x, np.float32(SMOOTHNESS), out=out)
    out[:, :, :-1] += np.multiply(x[:, :, 1:], across, out=scratch[:, :, 1:])
    out[:, :, 1:] += np.multiply(x[:, :, :-1], across, out=scratch[:, :, 1:])
    out[:, :-1] += np.multiply(x[:, 1:], down, out=scratch[:, 1:])
    out[:, 1:] += np.multiply(x[:, :-1], down, out=scratch[:, 1:])


@dataclass(frozen=True, slots=True)
class _CoarseSolution:
    """The solver's F and B, looked up by the picture's own pixels."""

    #: (rows of samples, samples across, 6).
    source: _Floats
    #: For every row of the picture: the samples' row above it, and the weight of the next.
    rows: tuple[NDArray[np.int64], _Floats]
    #: For every column of the picture: the sample before it, and the weight of the next.
    columns: tuple[NDArray[np.int64], _Floats]

    @classmethod
    def of(cls, pair: _Floats, step: int, shape: tuple[int, ...]) -> "_CoarseSolution":
        """Prepare the lookup of a solution, (6, height, width), in a picture of this shape."""
        _, rows, samples = pair.shape
        source = np.ascontiguousarray(pair.transpose(1, 2, 0))
        return cls(
            source, _interpolation(shape[0], rows, step), _interpolation(shape[1], samples, step)
        )

    def around(
        self, row: NDArray[np.int64], column: NDArray[np.int64]
    ) -> tuple[_Floats, _Floats, _Floats]:
        """Return F and B left and right of pixels, (pixels, 6), and the weight of the right.

        The pixels are in the order of the picture.
        """
        # Whole rows are interpolated at once, which is cheap; columns pixel by pixel. Only the rows
        # of these pixels: they stay in the processor's cache.
        first, last = row[0], row[-1] + 1
        above, weight = (each[first:last] for each in self.rows)
        table = self.source[above]
        below = self.source[np.minimum(above + 1, len(self.source) - 1)]
        below -= table
        below *= weight[:, None, None]
        table += below
        flat = table.reshape(-1, 6)
        before, share = self.columns
        left, across = (row - first) * self.source.shape[1] + before[column], share[column]
        # The last column is its own right neighbor, with a weight of zero.
        return flat.take(left, axis=0), flat.take(left + (across > 0), axis=0), across


def _interpolation(length: int, samples: int, step: int) -> tuple[NDArray[np.int64], _Floats]:
    """Return, for every pixel along an axis, the sample before it and the weight of the next."""
    place = np.clip((np.arange(length) - step // 2) / step, 0, samples - 1)
    before = place.astype(np.int64)
    return before, (place - before).astype(np.float32)


def _solve_soft_pixels(
    pixels: _Bytes, alpha: _Floats, coarse: _CoarseSolution, soft: NDArray[np.int64]
) -> None:
    """Solve the data term at some pixels of the picture, (height * width, 3), in place."""
    left, right, share = coarse.around(*np.divmod(soft, alpha.shape[1]))
    colors, a = pixels.take(soft, axis=0), alpha.reshape(-1).take(soft)
    b = 1 - a
    gain = a / (a * a + b * b)
    for channel in range(3):  # one by one: numpy is slow at broadcasting over three values
        foreground, background = (
            left[:, at] + share * (right[:, at] - left[:, at]) for at in (channel, channel + 3)
        )
        residual = colors[:, channel] - a * foreground - b * background
        foreground += gain * residual
        pixels[soft, channel] = np.clip(np.rint(foreground), 0, 255).astype(np.uint8)
