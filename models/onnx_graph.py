"""Builds ONNX graphs as one writes arithmetic: each operator's result is a name that the next one takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Name = str
"""A value in a graph."""

_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}


@dataclass
class Graph:
    """Nodes in the order in which they run, and the weights that they read.

    A branch of an `If` is a graph of its own that sees all values of the graph around it, so that weights and
    names are shared.
    """

    weights: dict[Name, NDArray[Any]] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)
    nodes: list[NodeProto] = field(default_factory=list)

    def several(self, kind: str, outputs: int, *inputs: Name, **attributes: Any) -> list[Name]:
        """Append an operator with several results; return their names."""
        names = [f"{kind.lower()}.{next(self._numbers)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def op(self, kind: str, *inputs: Name, **attributes: Any) -> Name:
        """Append an operator; return the name of its result."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def weight(self, array: NDArray[Any] | list[int], name: str = "constant") -> Name:
        """Keep an array, float32 or int64, in the file; return its name."""
        values = np.asarray(array)
        kind = np.float32 if values.dtype.kind == "f" else np.int64
        unique = f"{name}.{next(self._numbers)}"
        self.weights[unique] = np.ascontiguousarray(values, kind)
        return unique

    def number(self, value: float) -> Name:
        """Keep a number (float32, or int64 if it is whole in Python)."""
        return self.weight(np.array(value), "number")

    def exact(self, value: float) -> Name:
        """Keep a number as float64."""
        unique = f"exact.{next(self._numbers)}"
        self.weights[unique] = np.array(value, np.float64)
        return unique

    def affine(self, x: Name, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> Name:
        """``x @ weight + bias``, the bias where there is one."""
        product = self.op("MatMul", x, self.weight(weight, "weight"))
        return product if bias is None else self.op("Add", product, self.weight(bias, "bias"))

    def parts(self, x: Name, sizes: list[int], axis: int) -> list[Name]:
        """Cut along an axis."""
        return self.several("Split", len(sizes), x, self.weight(sizes), axis=axis)

    def last(self, x: Name, size: int) -> Name:
        """The last so many of a vector."""
        return self.op("Slice", x, self.weight([-size]), self.weight([2**31]))

    def shaped(self, x: Name, *shape: int) -> Name:
        """Give it another shape."""
        return self.op("Reshape", x, self.weight(list(shape)))

    def branch(self) -> Graph:
        """Begin a branch of an `If`."""
        return Graph(self.weights, self._numbers)

    def choose(self, condition: Name, then: GraphBranch, otherwise: GraphBranch) -> list[Name]:
        """Run one of two branches; return the names of what it results in."""
        return self.several(
            "If",
            len(then.results),
            condition,
            then_branch=then.proto("then"),
            else_branch=otherwise.proto("otherwise"),
        )


@dataclass(frozen=True)
class GraphBranch:
    """A branch of an `If`, with the names, and the types and shapes, of what it results in."""

    graph: Graph
    results: list[Name]
    like: list[NDArray[Any]]

    def proto(self, title: str) -> GraphProto:
        """Return it as ONNX has it."""
        outputs = [value_info(name, array) for name, array in zip(self.results, self.like, strict=True)]
        return helper.make_graph(self.graph.nodes, title, [], outputs)


def value_info(name: Name, like: NDArray[Any]) -> Any:
    """Return the declaration of a value that has an array's type and shape."""
    return helper.make_tensor_value_info(name, _TYPES[like.dtype], like.shape)


def initializer(name: Name, array: NDArray[Any]) -> TensorProto:
    """Return an array as ONNX keeps it."""
    return numpy_helper.from_array(array, name)
