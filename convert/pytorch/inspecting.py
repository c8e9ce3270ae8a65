"""What a .pt2 holds, for a person and for scripts."""

from __future__ import annotations

import collections
from dataclasses import replace
from typing import Any

from onnxgraft.errors import OnnxgraftError
from onnxgraft.stages.convert.inspection import Inspection, inspect_onnx
from onnxgraft.stages.convert.pytorch.exporting import lower_program
from onnxgraft.stages.convert.pytorch.program import Program

__all__ = ["inspect_program"]


def inspect_program(program: Program, opset: int) -> Inspection:
    """Return what a program holds, and what stands in the way of converting it."""
    exported = program.exported
    calls = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    found = Inspection(
        path=program.source.path,
        framework="pytorch",
        inputs=[str(port.spec) for port in program.inputs],
        outputs=[str(port.spec) for port in program.outputs],
        operators=dict(collections.Counter(map(_operator, calls)).most_common()),
        parameters=sum(value.numel() for value in exported.state_dict.values()),
    )
    try:
        model, notes = lower_program(program, opset)
        lowered = inspect_onnx(model)
    except OnnxgraftError as error:
        return replace(found, notes=[f"can't be converted: {error}"])
    return replace(found, dynamic=lowered.dynamic, unsupported=lowered.unsupported, notes=notes)


def _operator(target: Any) -> str:
    """Return an operator's name without its overload."""
    name = str(target)
    return name.rpartition(".")[0] if name.startswith("aten.") else name.split(" ")[-1].rstrip(">")
