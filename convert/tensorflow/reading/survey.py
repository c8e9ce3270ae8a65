"""What reading TensorFlow's messages would take, before they are parsed."""

from __future__ import annotations

import functools
from typing import Any

from onnxgraft.files.limits import NODES, TENSORS
from onnxgraft.files.schema import Costs, Message, schema
from onnxgraft.files.survey import survey
from onnxgraft.files.wire import WireError

__all__ = ["is_message"]

# Measured: what is parsed is parsed again by TensorFlow, which makes objects of nodes.
_COSTS = Costs(
    copies=5,
    limits={"NodeDef": NODES, "TensorProto": TENSORS},
    objects={
        "NodeDef": 9000, "NodeDef.input": 700, "FunctionDef": 22_000, "MetaGraphDef": 1000,
        "ArgDef": 800, "AttrDef": 300, "OpDef.control_output": 300, "TensorProto": 1200,
        "ListValue": 600, "ListValue.s": 60, "NameAttrList": 500, "TensorShapeProto": 100,
    },
)  # fmt: skip


def is_message(data: bytes, kind: Any, where: str) -> bool:
    """Tell whether ``data`` may be a message.

    Args:
        data: The bytes.
        kind: The class of the message, such as TensorFlow's ``GraphDef``.
        where: Begins the sentence of a refusal.

    Raises:
        ModelError: It holds more than is read.
    """
    try:
        survey(memoryview(data), _schema(kind.DESCRIPTOR), where)
    except WireError:
        return False
    return True


@functools.cache
def _schema(descriptor: Any) -> Message:
    return schema(descriptor, _COSTS)
