"""Arrays and their parts in compiled code without counting references, which takes locked instructions.

    borrowed(values)                the same array, or a NamedTuple of arrays
    span(values, start, length)     values[start : start + length]
    tail(values, start)             values[start:]
    address(values)                 where the first element is, as a whole number; address_of_floats and
                                    address_of_bytes take no others
    word_at(place)                  the int64 at an address

Unchecked, and none holds a reference: `values` must keep the memory alive. A kernel borrows its weights and
state once, on entry; what it calls must then be inlined, or it would count again.
"""

from __future__ import annotations

from typing import Any

from numba import types

from streamer.kernels.compiling import intrinsic
from streamer.kernels.emit import INDEX, check_arrays

_ELEMENTS = (types.float32, types.float64, types.uint8, types.int32, types.int64)


def _emit_borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        view = context.make_array(kind)(context, builder, value)
        view.meminfo = view.meminfo.type(None)
        return view._getvalue()
    if isinstance(kind, types.BaseTuple):
        members: Any = kind
        for i, member in enumerate(members):
            part = _emit_borrowed(context, builder, member, builder.extract_value(value, i))
            value = builder.insert_value(value, part, i)
    return value


@intrinsic
def borrowed(typing_context: Any, values: Any) -> Any:
    """The same, counting no reference."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _emit_borrowed(context, builder, signature.args[0], arguments[0])

    return values(values), codegen


def _emit_view(context: Any, builder: Any, kind: Any, array: Any, start: Any, stop: Any) -> Any:
    """An array over array[start:stop] that holds no reference; stop None is the end."""
    source = context.make_array(kind)(context, builder, array)
    view = context.make_array(kind)(context, builder)
    context.populate_array(
        view,
        data=builder.gep(source.data, [start]),
        shape=[builder.sub(source.nitems if stop is None else stop, start)],
        strides=[source.itemsize],
        itemsize=source.itemsize,
        meminfo=None,
    )
    return view._getvalue()


@intrinsic
def span(typing_context: Any, values: Any, start: Any, length: Any) -> Any:
    """`values[start : start + length]`."""
    check_arrays((values,), *_ELEMENTS)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, length = arguments
        return _emit_view(context, builder, signature.args[0], array, start, builder.add(start, length))

    return values(values, types.intp, types.intp), codegen


@intrinsic
def tail(typing_context: Any, values: Any, start: Any) -> Any:
    """`values[start:]`: a matrix or a bias inside the array that holds many."""
    check_arrays((values,), *_ELEMENTS)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start = arguments
        return _emit_view(context, builder, signature.args[0], array, start, None)

    return values(values, types.intp), codegen


def _address_of(*elements: Any) -> Any:
    """The address of arrays of these elements; the compiler refuses others."""

    @intrinsic
    def address(typing_context: Any, values: Any) -> Any:
        check_arrays((values,), *elements)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            return builder.ptrtoint(array.data, INDEX)

        return types.int64(values), codegen

    return address


address = _address_of(*_ELEMENTS)
address_of_floats = _address_of(types.float32)
address_of_bytes = _address_of(types.uint8)


@intrinsic
def word_at(typing_context: Any, place: Any) -> Any:
    """The int64 that lies at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], INDEX.as_pointer()))

    return types.int64(types.int64), codegen
