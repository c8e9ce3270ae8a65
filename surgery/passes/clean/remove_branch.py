"""Put the branch that a constant chooses in the place of an If.

Given:  y = If(True) <then: t = f(x), else: e = g(x)>      Result: y = f(x)
Given:  y = If(False) <then: t = f(x), else: e = g(x)>     Result: y = g(x)
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Replace every If that a constant decides by the branch that it takes."""
    result = Result()
    ifs = nodes_of(graph, "If")
    taken = {name: id(tensor) for name, tensor in graph.tensors().items()} if ifs else {}
    for node in ifs:
        condition = constant(node.inputs[0])
        if condition is None or condition.size != 1:
            result.refuse(node, "the condition is not a constant")
            continue
        name = "then_branch" if condition.any() else "else_branch"
        branch: gs.Graph = node.attrs.pop(name)
        _tell_apart(branch, taken)
        outputs = list(node.outputs)
        detach(node)
        context.take(branch.nodes)
        for source, target in zip(branch.outputs, outputs, strict=True):
            # remove_identity takes it away where the names allow that.
            context.add("Identity", f"{node.name}/{target.name}", [source], [target])
        result.did(node, f"the {name} is always taken")
    return result


def _tell_apart(branch: gs.Graph, taken: dict[str, int]) -> None:
    """Rename what the branch calls like something else in the graph, by the ids of its tensors."""
    inner = branch.tensors()
    for name, tensor in inner.items():
        unique, number = name, 1
        while taken.get(unique, id(tensor)) != id(tensor):
            number += 1
            unique = f"{name}_{number}"
            if unique in inner:
                taken.setdefault(unique, 0)
        tensor.name = unique
        taken[unique] = id(tensor)
