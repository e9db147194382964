"""What TensorFlow's two checkpoint formats share: how they name a tensor's shape and its numbers.

tensorflow/core/framework: types.proto, tensor_shape.proto.
"""

import numpy as np

from streamer.models.container import require
from streamer.models.importing.leaves import Numbers, elements
from streamer.models.importing.protobuf import Value, fields, message, number

MAX_ELEMENTS = 2**32

NUMBERS: dict[int, Numbers] = {
    1: Numbers(np.dtype("<f4")),
    2: Numbers(np.dtype("<f8")),
    3: Numbers(np.dtype("<i4")),
    4: Numbers(np.dtype("u1")),
    5: Numbers(np.dtype("<i2")),
    6: Numbers(np.dtype("i1")),
    9: Numbers(np.dtype("<i8")),
    10: Numbers(np.dtype("?")),
    14: Numbers(np.dtype("<u2"), bfloat16=True),
    17: Numbers(np.dtype("<u2")),
    19: Numbers(np.dtype("<f2")),
    22: Numbers(np.dtype("<u4")),
    23: Numbers(np.dtype("<u8")),
}
"""DataType of types.proto: what can be read."""

_OTHERS = {7: "string", 8: "complex64", 18: "complex128", 20: "resource", 21: "variant"}


def type_name(datatype: int) -> str:
    """Return what TensorFlow calls a type that cannot be read."""
    return _OTHERS.get(datatype, f"type {datatype}")


def read_shape(value: Value, name: str) -> tuple[int, ...]:
    """Read a TensorShapeProto."""
    sizes: list[int] = []
    for field, content in fields(message(value)):
        require(field != 3 or not number(content), f"the shape of {name!r} is unknown in it")
        if field == 2:
            sizes.append(sum(number(size) for part, size in fields(message(content)) if part == 1))
    elements(sizes, name, MAX_ELEMENTS)
    return tuple(sizes)
