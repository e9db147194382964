"""A pickle read without running it: a machine for its opcodes that builds plain containers and calls nothing.

Python's own `pickle` imports what a pickle names and calls it; restricting its `find_class` still leaves
hashing, recursion and memory to the file. This machine follows the opcodes of protocols 0 to 5 (documented in
Python's `pickletools`) and knows four things only: plain values; names, which stay names; a vocabulary of
functions of ours, of which each stands for one that an honest pickle calls; and structures, which keep the
attributes of an object whose class is never looked for. Anything else is refused by its name.
"""

import codecs
import os
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

from streamer.models.container import require
from streamer.models.errors import StreamerError

MAX_OPCODES = 1_000_000
MAX_NAME_BYTES = 256

_MAX_INTEGER_BYTES = 16
_SIZED = (str, bytes, list, tuple, dict)
_SMALL = 4096
_MAX_KEY = 2**60  # an integer below hashes to itself: keys that all collide cannot be made
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names: "torch.FloatStorage". It is never looked for."""

    path: str


@dataclass(eq=False)
class Structure:
    """An object of a class that is not imported: the class's name, and the attributes."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Built:
    """Base of what a function of the vocabulary returns and the pickle completes afterwards."""

    def build(self, state: Any) -> None:
        """Take the state that the pickle gives; raise `StreamerError` or a `_DAMAGED` error."""


@dataclass(frozen=True)
class Vocabulary:
    """What a pickle may name.

    functions: by the name that it calls, what does the same here; they take what the pickle gives.
    values: names that it may mention, not call.
    structures: whether a class of this module and name may be kept as a `Structure`.
    persistent: what a persistent id (`torch`'s storages) stands for.
    """

    functions: Mapping[str, Callable[..., object]]
    values: frozenset[str] = frozenset()
    structures: Callable[[str], bool] = lambda path: False
    persistent: Callable[[object], object] | None = None


def read_pickle(file: BinaryIO, vocabulary: Vocabulary) -> object:
    """Read one pickle from where the file stands, and stop behind it; raise `StreamerError`."""
    machine = _Machine(file, vocabulary)
    try:
        return machine.run()
    except _DAMAGED:
        raise StreamerError(f"its pickle is damaged before byte {file.tell()}: get a new copy") from None


def refuse_name(path: str) -> NoReturn:
    """Refuse a pickle for what it names."""
    raise StreamerError(
        f"its pickle asks for {path[:MAX_NAME_BYTES]!r}, which no checkpoint needs: do not trust it"
    )


def briefly(value: object) -> str:
    """Return how an unpickled value is spoken of; a container could be without end."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    return str(value) if isinstance(value, int) else f"a {type(value).__name__}"


def sequence(value: object) -> tuple[Any, ...]:
    """Return the members of a list or a tuple; a text's would take more memory than it."""
    require(isinstance(value, list | tuple), "its pickle has something else where a list must be")
    return tuple(value)  # type: ignore[arg-type]


def entry_key(key: object) -> str | int:
    """Return a key of a dictionary, a text or a number; tuples would be hashed without bound."""
    if isinstance(key, str):
        return key
    require(
        isinstance(key, int) and -_MAX_KEY < key < _MAX_KEY, "its pickle has a key that is no text or number"
    )
    assert isinstance(key, int)
    return key


class _Machine:
    """The stack, the marks in it, and the memo."""

    def __init__(self, file: BinaryIO, vocabulary: Vocabulary) -> None:
        begin = file.tell()
        self.end = file.seek(0, os.SEEK_END)
        file.seek(begin)
        self.file = file
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> object:
        """Follow opcodes to the one that ends the pickle; return what is on top."""
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                return self.pop()
            if opcode not in _OPCODES:
                raise StreamerError(f"its pickle has the opcode {opcode!r}, which no checkpoint needs")
            _OPCODES[opcode](self)
        raise StreamerError(f"its pickle has more than {MAX_OPCODES} opcodes: no checkpoint has")

    def take(self, count: int) -> bytes:
        """Read so many bytes, having looked whether they are there before memory is taken for them."""
        there = count <= _SMALL or count <= self.end - self.file.tell()
        data = self.file.read(count) if there else b""
        require(len(data) == count, "its pickle is truncated: get a new copy")
        return data

    def line(self, most: int = MAX_NAME_BYTES) -> bytes:
        """Read to the end of a line of so many bytes at most."""
        data = self.file.readline(most + 1)
        require(data.endswith(b"\n"), f"its pickle is truncated, or has a name of more than {most} bytes")
        return data[:-1]

    def number(self, count: int, signed: bool = False) -> int:
        """Read a whole number of so many bytes."""
        require(
            count <= _MAX_INTEGER_BYTES, f"its pickle has a whole number of {count} bytes: no checkpoint has"
        )
        return int.from_bytes(self.take(count), "little", signed=signed)

    def text(self, count: int) -> str:
        """Read so many bytes of UTF-8."""
        return self.take(count).decode("utf-8")

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value, which must lie above the last mark."""
        require(
            len(self.stack) > (self.marks[-1] if self.marks else 0), "its pickle is damaged: get a new copy"
        )
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take all values above the last mark, and the mark."""
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def append(self, values: list[Any]) -> None:
        """Append to the list on top."""
        target = self.stack[-1]
        require(isinstance(target, list), "its pickle appends to what is no list: get a new copy")
        target.extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        """Add keys and values, in turn, to the dictionary on top."""
        target = self.stack[-1]
        require(isinstance(target, dict), "its pickle adds keys to what is no dictionary: get a new copy")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[entry_key(key)] = value

    def find(self, module: str, name: str) -> Name:
        """Return a name, if it is one that may be there."""
        known, path = self.vocabulary, f"{module}.{name}"
        if not (path in known.functions or path in known.values or known.structures(path)):
            refuse_name(path)
        return Name(path)

    def call(self, called: object, arguments: Any) -> None:
        """Push what our function of this name makes of the arguments."""
        require(isinstance(called, Name), "its pickle calls what is no function: do not trust it")
        assert isinstance(called, Name)
        require(isinstance(arguments, tuple), "its pickle is damaged: get a new copy")
        if called.path not in self.vocabulary.functions:
            refuse_name(called.path)
        self.copy(arguments)
        self.push(self.vocabulary.functions[called.path](*arguments))

    def make(self, kind: object, arguments: Any) -> None:
        """Push a new object: a structure, if its class is none of our functions."""
        known = self.vocabulary
        if isinstance(kind, Name) and kind.path not in known.functions and known.structures(kind.path):
            require(arguments == (), f"its pickle makes a {kind.path!r} of arguments, which cannot be read")
            self.push(Structure(kind.path))
        else:
            self.call(kind, arguments)

    def build(self, state: Any) -> None:
        """Complete the object on top with its state."""
        target = self.stack[-1]
        self.copy(state if isinstance(state, tuple) else (state,))
        if isinstance(target, Built):
            target.build(state)
        elif isinstance(target, Structure):
            require(isinstance(state, dict), f"the attributes of {target.kind!r} are no dictionary")
            target.attributes.update((str(key), value) for key, value in state.items())
        else:  # the attributes of an OrderedDict: a state dict's _metadata
            require(isinstance(target, dict), "its pickle gives a state to what has none: get a new copy")

    def copy(self, values: tuple[Any, ...]) -> None:
        """Count what is copied: through the memo, a pickle could ask for one large thing again and again."""
        self.copied += len(values) + sum(len(value) for value in values if isinstance(value, _SIZED))
        require(
            self.copied <= MAX_OPCODES + 2 * self.end, "its pickle copies more than it has: do not trust it"
        )

    def put(self, index: int) -> None:
        """Remember the topmost value."""
        require(index <= MAX_OPCODES, "its pickle is damaged: get a new copy")
        self.memo[index] = self.stack[-1]


def _decimal(line: bytes) -> int | bool:
    """Read protocol 0's number: 00 and 01 are truth values."""
    require(len(line) <= 3 * _MAX_INTEGER_BYTES, "its pickle has a whole number that is too long")
    return line == b"01" if line in (b"00", b"01") else int(line.rstrip(b"L"))


def _quoted(line: bytes) -> str:
    """Read protocol 0's text of Python 2, whose bytes become the characters of Latin-1."""
    quote = line[:1]
    require(
        len(line) >= 2 and quote in (b"'", b'"') and line.endswith(quote),
        "its pickle has a text without quotes",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for a wrong escape, of a damaged file
        return codecs.escape_decode(line[1:-1])[0].decode("latin1")  # type: ignore[union-attr]


def _global(machine: _Machine) -> Name:
    module = machine.line()
    return machine.find(module.decode("utf-8"), machine.line().decode("utf-8"))


def _stack_global(machine: _Machine) -> Name:
    name, module = machine.pop(), machine.pop()
    require(isinstance(name, str) and isinstance(module, str), "its pickle is damaged: get a new copy")
    require(len(name) + len(module) <= MAX_NAME_BYTES, "its pickle has a name that is too long")
    return machine.find(module, name)


def _instance(machine: _Machine) -> None:
    arguments = tuple(machine.pop_to_mark())
    machine.make(_global(machine), arguments)


def _object(machine: _Machine) -> None:
    kind, *arguments = machine.pop_to_mark()
    machine.make(kind, tuple(arguments))


def _applied(method: Callable[[_Machine, Any, Any], None]) -> Callable[[_Machine], None]:
    def apply(machine: _Machine) -> None:
        arguments = machine.pop()
        method(machine, machine.pop(), arguments)

    return apply


def _persistent(machine: _Machine) -> object:
    known = machine.vocabulary.persistent
    require(known is not None, "its pickle has a persistent id: only PyTorch's may")
    assert known is not None
    return known(machine.pop())


def _tuple(machine: _Machine, count: int) -> tuple[Any, ...]:
    return tuple([machine.pop() for _ in range(count)][::-1])


def _dictionary(machine: _Machine) -> None:
    pairs = machine.pop_to_mark()
    machine.push({})
    machine.set_items(pairs)


_Step = Callable[[_Machine], object]

_PUSHES: dict[bytes, _Step] = {
    b"N": lambda m: None,
    b"\x88": lambda m: True,
    b"\x89": lambda m: False,
    b"I": lambda m: _decimal(m.line()),
    b"L": lambda m: _decimal(m.line()),
    b"J": lambda m: m.number(4, signed=True),
    b"K": lambda m: m.number(1),
    b"M": lambda m: m.number(2),
    b"\x8a": lambda m: m.number(m.number(1), signed=True),
    b"\x8b": lambda m: m.number(m.number(4), signed=True),
    b"F": lambda m: float(m.line()),
    b"G": lambda m: struct.unpack(">d", m.take(8))[0],
    b"S": lambda m: _quoted(m.line(m.end)),
    b"V": lambda m: m.line(m.end).decode("raw-unicode-escape"),
    b"T": lambda m: m.take(m.number(4)).decode("latin1"),
    b"U": lambda m: m.take(m.number(1)).decode("latin1"),
    b"X": lambda m: m.text(m.number(4)),
    b"\x8c": lambda m: m.text(m.number(1)),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"B": lambda m: m.take(m.number(4)),
    b"C": lambda m: m.take(m.number(1)),
    b"\x8e": lambda m: m.take(m.number(8)),
    b"]": lambda m: [],
    b"}": lambda m: {},
    b")": lambda m: (),
    b"\x8f": lambda m: [],  # sets are lists here: nothing is hashed
    b"l": lambda m: m.pop_to_mark(),
    b"\x91": lambda m: m.pop_to_mark(),
    b"t": lambda m: tuple(m.pop_to_mark()),
    b"\x85": lambda m: _tuple(m, 1),
    b"\x86": lambda m: _tuple(m, 2),
    b"\x87": lambda m: _tuple(m, 3),
    b"g": lambda m: m.memo[_decimal(m.line())],
    b"h": lambda m: m.memo[m.number(1)],
    b"j": lambda m: m.memo[m.number(4)],
    b"2": lambda m: m.stack[-1],
    b"c": _global,
    b"\x93": _stack_global,
    b"Q": _persistent,
}
"""Opcodes that end with a value on the stack, and what that is."""

_OTHERS: dict[bytes, _Step] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_to_mark(),
    b"p": lambda m: m.put(_decimal(m.line())),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"\x90": lambda m: m.append(m.pop_to_mark()),
    b"s": lambda m: m.set_items(list(_tuple(m, 2))),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"d": _dictionary,
    b"b": lambda m: m.build(m.pop()),
    b"i": _instance,
    b"o": _object,
    b"R": _applied(_Machine.call),
    b"\x81": _applied(_Machine.make),
}


def _pushing(step: _Step) -> _Step:
    return lambda machine: machine.push(step(machine))


_OPCODES = {code: _pushing(step) for code, step in _PUSHES.items()} | _OTHERS
