"""The Triton program of the deformable convolution; `deformable` describes it.

Importing this needs Triton.
"""

# Triton reads the source of these functions: annotations and names follow its conventions.
import triton
import triton.language as tl


@triton.jit
def _clamp(x, most):
    """Clamp to -2 .. most; NaN stays."""
    least = tl.maximum(x, -2.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(least, most, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _corner(x, row, col, share, picture, height, width, channels, channel, known):
    """Load one of the four neighbors, times its weight: (pixels, channels) float32."""
    inside = known & (row >= 0) & (row < height) & (col >= 0) & (col < width)
    at = ((picture * height + row) * width + col) * channels
    valid = inside[:, None] & (channel < channels)[None, :]
    values = tl.load(x + at[:, None] + channel[None, :], mask=valid, other=0.0)
    return values.to(tl.float32) * share[:, None]


@triton.jit
def deformable_program(
    x,
    places,
    weight,
    bias,
    out,
    pixels,
    height,
    width,
    channels,
    outputs,
    SIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute a tile of PIXELS rows and OUTPUTS columns of the result."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = pixel < pixels
    picture, inside = pixel // (height * width), pixel % (height * width)
    at_row, at_col = inside // width, inside % width
    taps: tl.constexpr = SIDE * SIDE
    total = tl.zeros((PIXELS, OUTPUTS), dtype=tl.float32)
    for tap in range(taps):
        place = places + pixel * (3 * taps)
        row = tl.load(place + 2 * tap, mask=known, other=0.0).to(tl.float32)
        col = tl.load(place + 2 * tap + 1, mask=known, other=0.0).to(tl.float32)
        modulator = tl.load(place + 2 * taps + tap, mask=known, other=0.0).to(tl.float32)
        modulator = 2 / (1 + tl.exp(-modulator))
        row += at_row + tap // SIDE - SIDE // 2
        col += at_col + tap % SIDE - SIDE // 2
        # Far outside there are only zeros, and an integer could not hold the distance. NaN stays
        # NaN and makes the result NaN, so that an overflow shows.
        row = _clamp(row, height + 1.0)
        col = _clamp(col, width + 1.0)
        top, left = tl.floor(row), tl.floor(col)
        down, right = row - top, col - left
        top, left = top.to(tl.int32), left.to(tl.int32)
        low, far = top + 1, left + 1
        for first in range(0, channels, CHANNELS):
            channel = first + tl.arange(0, CHANNELS)
            above, below = modulator * (1 - down), modulator * down
            samples = _corner(
                x, top, left, above * (1 - right), picture, height, width, channels, channel, known
            )
            samples += _corner(
                x, top, far, above * right, picture, height, width, channels, channel, known
            )
            samples += _corner(
                x, low, left, below * (1 - right), picture, height, width, channels, channel, known
            )
            samples += _corner(
                x, low, far, below * right, picture, height, width, channels, channel, known
            )
            valid = (channel < channels)[:, None] & (output < outputs)[None, :]
            at = (tap * channels + channel)[:, None] * outputs + output[None, :]
            part = tl.load(weight + at, mask=valid, other=0.0)
            total = tl.dot(samples.to(part.dtype), part, total, input_precision="ieee")
    total += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    valid = known[:, None] & (output < outputs)[None, :]
    at = pixel[:, None] * outputs + output[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=valid)
