"""Files of ONNX models, in place of weights that are not at hand."""


def mean_sigmoid_graph(side: int) -> bytes:
    """A model that answers (1, 3, side, side) with the sigmoid of the channels' mean."""
    axes = _text(1, b"axes") + _number(20, 7) + _number(8, 1)  # AttributeProto, of type INTS
    keep = _text(1, b"keepdims") + _number(20, 2) + _number(3, 1)
    mean = _node(b"x", b"m", b"ReduceMean", _text(5, axes), _text(5, keep))
    sigmoid = _node(b"m", b"y", b"Sigmoid")
    graph = (
        _text(1, mean)
        + _text(1, sigmoid)
        + _text(2, b"g")
        + _text(11, _value(b"x", 3, side))
        + _text(12, _value(b"y", 1, side))
    )
    return _number(1, 8) + _text(7, graph) + _text(8, _text(1, b"") + _number(2, 13))


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
