"""ICC profiles made here, whose effect is known."""

import struct
from typing import Literal

from PIL import ImageCms

# Primaries of sRGB adapted to D50, as its own profile states them (X, Y, Z).
RED, GREEN, BLUE = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
_D50 = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> int:
    return round(value * 65536)


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(_fixed(value) for value in values))


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def _profile(space: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.1, of the given tags (ICC.1:2001-04, clause 6)."""
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(_fixed(value) for value in _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...]) -> bytes:
    curve = _gamma(2.2)
    tags = {b"wtpt": _xyz(*_D50), b"rXYZ": _xyz(*red), b"gXYZ": _xyz(*green), b"bXYZ": _xyz(*blue)}
    return _profile(
        b"RGB ", b"XYZ ", b"mntr", {**tags, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    )


def inverted_cmyk_profile() -> bytes:
    """No ink is black and all ink is white: nothing but this profile can say so."""
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *(_fixed(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut += bytes(range(256)) * 4
    for node in range(16):
        lut += bytes([node.bit_count() * 255 // 4, 128, 128])
    lut += bytes(range(256)) * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": _xyz(*_D50), b"A2B0": lut})


def named_profile(name: Literal["LAB", "XYZ", "sRGB"]) -> bytes:
    """A profile of Little CMS's own."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()
