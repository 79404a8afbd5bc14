"""The CIEDE2000 color difference.

Written from G. Sharma, W. Wu and E. N. Dalal, "The CIEDE2000 Color-Difference Formula:
Implementation Notes, Supplementary Test Data, and Mathematical Observations", Color Research and
Application 30 (2005); the numbers in comments are its equations. All weights are 1.
"""

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
# IEC 61966-2-1 to XYZ under D65, relative to its white.
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _TO_XYZ.sum(axis=1)


def linear(srgb: NDArray[np.uint8] | _Floats) -> _Floats:
    """sRGB, 0..255, to light, 0..1."""
    x = np.asarray(srgb, float) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def lab(srgb: NDArray[np.uint8] | _Floats) -> _Floats:
    """CIELAB of sRGB colors, (..., 3)."""
    ratio = linear(srgb) @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def difference(first: _Floats, second: _Floats) -> _Floats:
    """Of two arrays of CIELAB colors, (..., 3)."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2  # 3
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))  # 4
    a1, a2 = (1 + g) * a1, (1 + g) * a2  # 5
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)  # 6
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360  # 7
    gray = c1 * c2 == 0
    turn = np.where(gray, 0, (h2 - h1 + 180) % 360 - 180)  # 10
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)  # 11
    h = np.where(np.abs(h1 - h2) > 180, (h1 + h2 + 360) / 2 % 360, (h1 + h2) / 2)
    h = np.where(gray, h1 + h2, h)  # 14
    light, c = (l1 + l2) / 2, (c1 + c2) / 2  # 12, 13
    t = 1 - 0.17 * _cos(h - 30) + 0.24 * _cos(2 * h) + 0.32 * _cos(3 * h + 6)
    t -= 0.20 * _cos(4 * h - 63)  # 15
    rotation = 2 * np.sqrt(c**7 / (c**7 + 25.0**7))  # 17
    rotation *= -np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))  # 16, 21
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)  # 18
    x, y, z = (l2 - l1) / sl, (c2 - c1) / (1 + 0.045 * c), dh / (1 + 0.015 * c * t)  # 19, 20
    return np.asarray(np.sqrt(np.maximum(x * x + y * y + z * z + rotation * y * z, 0)))  # 22


def _cos(degrees: _Floats) -> _Floats:
    return np.asarray(np.cos(np.radians(degrees)))
