"""Describe colors by an ICC profile, where a file states primaries and a curve instead of one."""

import struct
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple


class Chromaticities(NamedTuple):
    """Of the white point and the primaries: x and y of CIE 1931."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_D65: Final = (0.3127, 0.3290)
_C: Final = (0.310, 0.316)
SRGB: Final = Chromaticities(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
#: Adobe RGB (1998).
ADOBE_RGB: Final = Chromaticities(_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
#: ITU-T H.273, table 2.
PRIMARIES: Final[Mapping[int, Chromaticities]] = MappingProxyType(
    {
        1: SRGB,
        4: Chromaticities(_C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
        5: Chromaticities(_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
        6: Chromaticities(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
        7: Chromaticities(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
        8: Chromaticities(_C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
        9: Chromaticities(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
        11: Chromaticities((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
        12: Chromaticities(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
        22: Chromaticities(_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
    }
)

#: From a stored level, 0..1, to light, of which 1 is white.
Curve = Callable[[float], float]

#: Of the light of PQ (10,000 cd/m2) and HLG (1,000), what is white in a picture without highlights:
#: 203 cd/m2 (ITU-R BT.2408). What is brighter is cut.
_WHITE: Final = 203.0


def gamma_curve(exponent: float) -> Curve:
    """Return the curve of a power."""
    return lambda level: level**exponent


def table_curve(table: Sequence[int]) -> Curve:
    """Return the curve of a table of 16-bit light for evenly spaced levels."""
    return lambda level: table[round(level * (len(table) - 1))] / 65_535


def srgb_curve(level: float) -> float:
    """Return the light of an sRGB level (IEC 61966-2-1)."""
    return level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4  # noqa: PLR2004


def _pq(level: float) -> float:
    power = level ** (1 / 78.84375)
    ratio = max(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return float(ratio ** (1 / 0.1593017578125) * 10_000 / _WHITE)


def _hlg(level: float) -> float:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = level**2 / 3 if level <= 0.5 else (2.718281828459045 ** ((level - c) / a) + b) / 12  # noqa: PLR2004
    return float(scene**1.2 * 1_000 / _WHITE)


#: ITU-T H.273, table 3. The others are not known. Those of video cameras (1, 6, 14 and 15) count as
#: sRGB's: displays show them so, and encoders write them that are told nothing.
CURVES: Final[Mapping[int, Curve]] = MappingProxyType(
    dict.fromkeys((1, 6, 14, 15), srgb_curve)
    | {4: gamma_curve(2.2), 5: gamma_curve(2.8), 8: gamma_curve(1), 13: srgb_curve}
    | {16: _pq, 17: gamma_curve(2.6), 18: _hlg}
)


def is_like_srgb(colors: Chromaticities) -> bool:
    """Return whether a file's white point and primaries are those of sRGB, but for rounding."""
    return all(
        abs(a - b) < 0.002  # noqa: PLR2004
        for mine, its in zip(colors, SRGB, strict=True)
        for a, b in zip(mine, its, strict=True)
    )


def make_gamma_profile(
    colors: Chromaticities, exponent: float, *, gray: bool = False
) -> bytes | None:
    """Make an ICC profile of primaries and the power from levels to light.

    None if the colors are those of a display like sRGB's, as old files state them: the curve is
    nearly its own.
    """
    if is_like_srgb(colors) and abs(1 / exponent - _SRGB_GAMMA) < 1e-5:  # noqa: PLR2004
        return None
    return make_profile(colors, gamma_curve(exponent), gray=gray)


#: Of a PNG's `gAMA`, for sRGB.
_SRGB_GAMMA: Final = 0.45455


def make_coded_profile(primaries: int, transfer: int, *, gray: bool = False) -> bytes | None:
    """Make an ICC profile of what a file states by the numbers of ITU-T H.273.

    What is not known counts as sRGB's. None if the colors are sRGB.
    """
    colors, curve = PRIMARIES.get(primaries, SRGB), CURVES.get(transfer, srgb_curve)
    if curve is srgb_curve and (gray or colors is SRGB):
        return None
    return make_profile(colors, curve, gray=gray)


def make_profile(colors: Chromaticities, curve: Curve, *, gray: bool = False) -> bytes | None:
    """Make an ICC profile, version 2, of primaries and a curve; None if no colors fit them."""
    tags: dict[bytes, bytes] = {b"wtpt": _xyz(_D50)}
    table = _curve(curve)
    if gray:
        tags[b"kTRC"] = table
    else:
        columns = _adapted_primaries(colors)
        if columns is None:
            return None
        for letter, column in zip((b"r", b"g", b"b"), columns, strict=True):
            tags |= {letter + b"XYZ": _xyz(column), letter + b"TRC": table}
    return _profile(b"GRAY" if gray else b"RGB ", tags)


Vector = tuple[float, float, float]

_D50: Final[Vector] = (0.9642, 1.0, 0.8249)
_BRADFORD: Final = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_TABLE_ENTRIES: Final = 1024


def _multiply(matrix: tuple[Vector, ...], vector: Vector) -> Vector:
    red, green, blue = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return red, green, blue


def _solve(columns: tuple[Vector, Vector, Vector], target: Vector) -> Vector | None:
    """Return how much of each column makes the target, by Cramer's rule."""
    whole = _determinant(*columns)
    if abs(whole) < 1e-9:  # noqa: PLR2004 - they lie in a plane
        return None
    a, b, c = columns
    return (
        _determinant(target, b, c) / whole,
        _determinant(a, target, c) / whole,
        _determinant(a, b, target) / whole,
    )


def _determinant(a: Vector, b: Vector, c: Vector) -> float:
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - b[0] * (a[1] * c[2] - a[2] * c[1])
        + c[0] * (a[1] * b[2] - a[2] * b[1])
    )


def _adapted_primaries(colors: Chromaticities) -> tuple[Vector, ...] | None:
    """Return X, Y, Z of each primary, adapted to D50 as profiles have it (Bradford)."""
    if any(x < 0 or y <= 0 or x + y > 1 for x, y in colors):
        return None
    white, *primaries = ((x / y, 1.0, (1 - x - y) / y) for x, y in colors)
    red, green, blue = primaries
    shares = _solve((red, green, blue), white)
    if shares is None:
        return None
    source, target = _multiply(_BRADFORD, white), _multiply(_BRADFORD, _D50)
    a, b, c = zip(*_BRADFORD, strict=True)
    adapted = []
    for primary, share in zip((red, green, blue), shares, strict=True):
        cone = _multiply(_BRADFORD, primary)
        x, y, z = (
            share * each * to / max(of, 1e-9)
            for each, to, of in zip(cone, target, source, strict=True)
        )
        column = _solve((a, b, c), (x, y, z))
        adapted.append(column or (0.0, 0.0, 0.0))
    return tuple(adapted)


def _xyz(values: Vector) -> bytes:
    fixed = (min(max(round(each * 65536), -(1 << 31)), (1 << 31) - 1) for each in values)
    return b"XYZ " + bytes(4) + struct.pack(">3i", *fixed)


def _curve(curve: Curve) -> bytes:
    levels = (curve(at / (_TABLE_ENTRIES - 1)) for at in range(_TABLE_ENTRIES))
    table = [round(min(max(each, 0), 1) * 65535) for each in levels]
    return b"curv" + struct.pack(f">II{_TABLE_ENTRIES}H", 0, _TABLE_ENTRIES, *table)


def _profile(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """Put a profile together (ICC.1:2001-04, clause 6)."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
