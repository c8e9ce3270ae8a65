"""What operator a node is: its type and its domain, always together.

``acme.Conv`` is another operator than ONNX's ``Conv``. So this is the only place that looks at the
type of an ONNX node: `is_op` asks for an operator, `op_of` is the name for tables and messages. A
test walks the whole product and fails where it is done otherwise.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

__all__ = [
    "DYNAMIC_LSTM", "MICROSOFT", "QUANTIZERS", "RECURRENT", "WEIGHTED", "constant_value", "counted",
    "is_op", "is_own_domain", "nodes_of", "op_key", "op_of", "set_op",
]  # fmt: skip

# The names that ONNX's own domain has in files; onnx-graphsurgeon has None for it.
_OWN = frozenset({None, "", "ai.onnx"})
# Where QuantizeLinear and DequantizeLinear are the operators of that name: onnxruntime's older
# tools write them in a domain of their own.
QUANTIZERS = ("", "com.microsoft")
# ONNX's layers with weights: their second input.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# ONNX's layers with a state; their weights are the second and third input.
RECURRENT = ("GRU", "LSTM", "RNN")
# onnxruntime's operators, and its LSTM with weights of eight bits.
MICROSOFT, DYNAMIC_LSTM = "com.microsoft", "DynamicQuantizeLSTM"

# A node of onnx-graphsurgeon or of a ModelProto.
Node = TypeVar("Node")


def is_own_domain(domain: str | None) -> bool:
    """Tell whether a domain is ONNX's own.

    >>> is_own_domain("ai.onnx"), is_own_domain("ai.onnx.ml")
    (True, False)
    """
    return domain in _OWN


def op_key(node: Any) -> tuple[str, str]:
    """Return domain and type, as schemas and functions are looked up: ``("acme", "Conv")``.

    ONNX's own domain is the empty string.
    """
    domain = node.domain
    kind = node.op_type if isinstance(node, onnx.NodeProto) else node.op
    return ("" if domain in _OWN else domain), kind


def op_of(node: Any) -> str:
    """Return an operator's name: ``Conv`` for ONNX's own, ``acme.Conv`` for one of a domain.

    A table of ONNX's operators has no entry under the name of another's.

    >>> op_of(gs.Node("Conv")), op_of(gs.Node("Conv", domain="acme"))
    ('Conv', 'acme.Conv')
    """
    domain, kind = op_key(node)
    return f"{domain}.{kind}" if domain else kind


def is_op(node: Node | None, *names: str, domain: str | tuple[str, ...] = "") -> TypeGuard[Node]:
    """Tell whether there is a node, and it is one of the operators ``names``.

    Args:
        node: Of onnx-graphsurgeon, or a NodeProto.
        names: Types of operators.
        domain: Whose they are, or several; empty for ONNX's own.

    >>> is_op(gs.Node("Conv"), "Conv", "Gemm"), is_op(gs.Node("Conv", domain="acme"), "Conv")
    (True, False)
    """
    if node is None:
        return False
    own, kind = op_key(node)
    return kind in names and (own in domain if isinstance(domain, tuple) else own == domain)


def nodes_of(graph: gs.Graph, *names: str) -> Iterator[gs.Node]:
    """Yield the nodes of ONNX's operators ``names``, without those that were taken out by then.

    The graph may be changed meanwhile; what is added to it is not visited.
    """
    for node in list(graph.nodes):
        if node.outputs and is_op(node, *names):
            yield node


def set_op(node: gs.Node, name: str, domain: str | None = None) -> None:
    """Make another operator of a node: one of ONNX's own, if no domain is given."""
    node.op, node.domain = name, domain


def constant_value(node: gs.Node) -> NDArray[Any] | None:
    """Return the value of a Constant node of numbers, or None."""
    if is_op(node, "Constant"):
        for key, value in node.attrs.items():
            if key == "value":
                return np.asarray(value.values)
            if key in ("value_float", "value_floats"):
                return np.asarray(value, np.float32)
            if key in ("value_int", "value_ints"):
                return np.asarray(value, np.int64)
    return None


def counted(nodes: Iterable[Any]) -> dict[str, int]:
    """Return how often each operator occurs, most frequent first."""
    return dict(collections.Counter(op_of(node) for node in nodes).most_common())
