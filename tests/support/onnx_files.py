"""Files of ONNX models, in place of weights that are not at hand."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Stages of IS-Net's encoder (Qin et al., 2022): levels of each one's own U, and its channels: in,
#: in the middle and out. The last two have a U of growing dilation at one size.
_ENCODER = (
    *((7, 64, 32, 64), (6, 64, 32, 128), (5, 128, 64, 256), (4, 256, 128, 512)),
    *((0, 512, 256, 512), (0, 512, 256, 512)),
)
_DECODER = (
    *((0, 1024, 256, 512), (4, 1024, 128, 256), (5, 512, 64, 128), (6, 256, 32, 64)),
    (7, 128, 16, 64),
)


def mean_sigmoid_graph(side: int) -> bytes:
    """A model that answers (1, 3, side, side) with the sigmoid of the channels' mean."""
    keep = _text(5, _text(1, b"keepdims") + _number(20, 2) + _number(3, 1))
    mean = _node(b"x", b"m", b"ReduceMean", _ints(b"axes", [1]), keep)
    sigmoid = _node(b"m", b"y", b"Sigmoid")
    graph = (
        _text(1, mean)
        + _text(1, sigmoid)
        + _text(2, b"g")
        + _text(11, _value(b"x", 3, side))
        + _text(12, _value(b"y", 1, side))
    )
    return _number(1, 8) + _text(7, graph) + _text(8, _text(1, b"") + _number(2, 13))


class IsNetGraph:
    """A graph of IS-Net's shape with random weights."""

    def __init__(self, side: int = 1024) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._sides = {b"x": side}
        self._scales = self._tensor(np.array([1, 1, 2, 2], np.float32))
        last = self._conv(b"x", 3, 64, stride=2)
        seen = []
        for number, stage in enumerate(_ENCODER):
            last = self._stage(self._pooled(last) if number else last, *stage)
            seen.append(last)
        for skipped, stage in zip(reversed(seen[:-1]), _DECODER, strict=True):
            last = self._stage(self._joined(self._like(last, skipped), skipped), *stage)
        # Small weights: logits about 0 make a matte of all levels.
        last = self._add(b"Sigmoid", [self._doubled(self._conv(last, 64, 1, gain=0.01))])
        graph = (
            b"".join(_text(1, node) for node in self._nodes)
            + _text(2, b"g")
            + b"".join(_text(5, tensor) for tensor in self._tensors)
            + _text(11, _value(b"x", 3, side))
            + _text(12, _value(last, 1, side))
        )
        self.file = _number(1, 8) + _text(7, graph) + _text(8, _text(1, b"") + _number(2, 13))

    def _stage(self, source: bytes, levels: int, *channels: int) -> bytes:
        """A residual U-block, of which 0 levels stand for growing dilation."""
        before, middle, after = channels
        outer = self._relu(self._conv(source, before, after))
        dilations = [1] * (levels - 1) + [2] if levels else [1, 2, 4, 8]
        down = [self._relu(self._conv(outer, after, middle))]
        for number, dilation in enumerate(dilations[1:], start=1):
            pooled = levels and 1 < number < levels - 1
            inner = self._pooled(down[-1]) if pooled else down[-1]
            if levels and number == 1:
                inner = self._pooled(inner)
            down.append(self._relu(self._conv(inner, middle, middle, dilation=dilation)))
        last = down.pop()
        for number, (skipped, dilation) in enumerate(
            zip(reversed(down), reversed(dilations[:-1]), strict=True), start=1
        ):
            joined = self._joined(self._like(last, skipped), skipped)
            width = after if number == len(dilations) - 1 else middle
            last = self._relu(self._conv(joined, 2 * middle, width, dilation=dilation))
        return self._add(b"Add", [last, outer], side=self._sides[outer])

    def _conv(
        self,
        source: bytes,
        before: int,
        after: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        gain: float = 1.0,
    ) -> bytes:
        side = self._sides[source] // stride
        spread = gain * (2 / (9 * before)) ** 0.5
        weights = self._rng.standard_normal((after, before, 3, 3), np.float32) * np.float32(spread)
        inputs = [source, self._tensor(weights), self._tensor(np.zeros(after, np.float32))]
        sides = {b"pads": [dilation] * 4, b"strides": [stride] * 2, b"dilations": [dilation] * 2}
        return self._add(b"Conv", inputs, *(_ints(*each) for each in sides.items()), side=side)

    def _relu(self, source: bytes) -> bytes:
        return self._add(b"Relu", [source])

    def _pooled(self, source: bytes) -> bytes:
        window = [_ints(name, [2, 2]) for name in (b"kernel_shape", b"strides")]
        return self._add(b"MaxPool", [source], *window, side=self._sides[source] // 2)

    def _doubled(self, source: bytes) -> bytes:
        mode = _text(5, _text(1, b"mode") + _number(20, 3) + _text(4, b"linear"))
        inputs = [source, b"", self._scales]
        return self._add(b"Resize", inputs, mode, side=self._sides[source] * 2)

    def _like(self, source: bytes, other: bytes) -> bytes:
        return source if self._sides[source] == self._sides[other] else self._doubled(source)

    def _joined(self, *sources: bytes) -> bytes:
        axis = _text(5, _text(1, b"axis") + _number(20, 2) + _number(3, 1))
        return self._add(b"Concat", sources, axis)

    def _add(
        self, kind: bytes, sources: Sequence[bytes], *attributes: bytes, side: int = 0
    ) -> bytes:
        name = b"n%d" % len(self._nodes)
        inputs = b"".join(_text(1, source) for source in sources)
        self._nodes.append(inputs + _text(2, name) + _text(4, kind) + b"".join(attributes))
        self._sides[name] = side or self._sides[sources[0]]
        return name

    def _tensor(self, values: NDArray[np.float32]) -> bytes:
        name = b"t%d" % len(self._tensors)
        dims = b"".join(_number(1, length) for length in values.shape)
        self._tensors.append(dims + _number(2, 1) + _text(8, name) + _text(9, values.tobytes()))
        return name


def _ints(name: bytes, values: Sequence[int]) -> bytes:
    return _text(5, _text(1, name) + _number(20, 7) + b"".join(_number(8, each) for each in values))


# Protocol buffers: a field's number and type, then its value.


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _node(source: bytes, target: bytes, kind: bytes, *attributes: bytes) -> bytes:
    return _text(1, source) + _text(2, target) + _text(4, kind) + b"".join(attributes)


def _value(name: bytes, channels: int, side: int) -> bytes:
    shape = b"".join(_text(1, _number(1, length)) for length in (1, channels, side, side))
    tensor = _number(1, 1) + _text(2, shape)  # of type FLOAT
    return _text(1, name) + _text(2, _text(1, tensor))
