"""Which inputs of a graph decide how large its tensors become."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, op_key
from onnxgraft.graph.walk import own_bodies

__all__ = ["inputs_that_size"]

# Where an operator takes a size.
_SIZES: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1,),
    "ConstantOfShape": (0,), "DFT": (1,), "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,),
    "MaxUnpool": (2,), "MelWeightMatrix": (0, 1), 
    "NonMaxSuppression": (2,), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,),
    "Resize": (1, 2, 3), "STFT": (1, 3), "Slice": (1, 2, 4), "Tile": (1, 2), "TopK": (1,),
    "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip


def inputs_that_size(graph: gs.Graph) -> set[str]:
    """Return the inputs that a size is computed of, or that reach a body or a function."""
    functions = {(function.domain or "", function.name) for function in graph.functions}
    return {tensor.name for tensor in graph.inputs if _sizes(tensor, functions)}


def _sizes(start: gs.Tensor, functions: set[tuple[str, str]]) -> bool:
    left, seen = [start], {id(start)}
    while left:
        tensor = left.pop()
        for node in tensor.outputs:
            if is_op(node, "Shape", "Size"):
                continue
            if op_key(node) in functions or any(own_bodies(node)):
                return True
            places = _SIZES.get(op_key(node)[1], ()) if is_op(node, *_SIZES) else ()
            if any(node.inputs[at] is tensor for at in places if at < len(node.inputs)):
                return True
            for made in node.outputs:
                if id(made) not in seen:
                    seen.add(id(made))
                    left.append(made)
    return False
