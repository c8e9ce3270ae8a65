"""Complex tensors, which ONNX's operators do not take: a tensor of real and one of imaginary parts.

RFFT2D and CAST make them; REAL, IMAG, COMPLEX_ABS and CAST, which keeps the real part, take them
apart; what stands between is done to both parts.
"""

from __future__ import annotations

import copy
from typing import Any

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert.tflite.reading import Lite

__all__ = ["split_complex"]

# A transform is a matrix of half the square of its length.
_LONGEST = 1 << 13
_MOVING = frozenset(
    "BROADCAST_TO CONCATENATION EXPAND_DIMS GATHER GATHER_ND PACK RESHAPE REVERSE_V2 SLICE SPLIT "
    "SPLIT_V SQUEEZE STRIDED_SLICE TILE TRANSPOSE UNPACK ADD SUB NEG SUM".split()
)  # fmt: skip


def split_complex(lite: Lite, graph: Any) -> None:
    """Rewrite the operators on complex tensors of a graph.

    Raises:
        NotSupportedError: An operator is none of those that are known, or an input or output of the
            graph is complex.
    """
    if not any(lite.type_of(tensor).startswith("COMPLEX") for tensor in graph.tensors):
        return
    parts: dict[int, tuple[int, int]] = {}
    same: dict[int, int] = {}

    def part(index: int, which: int) -> int:
        if not lite.type_of(graph.tensors[index]).startswith("COMPLEX"):
            return index
        if index not in parts:
            tensor = graph.tensors[index]
            value = lite.constant(tensor)
            if value is not None:
                parts[index] = (
                    lite.add_constant(value.real, f"{tensor.name}/real", graph),
                    lite.add_constant(value.imag, f"{tensor.name}/imag", graph),
                )
            else:
                real = lite.like(index, f"{tensor.name}/real", graph)
                imaginary = lite.like(index, f"{tensor.name}/imag", graph)
                for number in (real, imaginary):
                    lite.set_type(graph.tensors[number], "FLOAT32")
                parts[index] = (real, imaginary)
        return parts[index][which]

    def between(kind: str, inputs: list[int], like: int, name: str) -> tuple[Any, int]:
        target = lite.like(like, f"{graph.tensors[like].name}/{name}", graph)
        options = getattr(lite.schema, f"{kind.capitalize()}OptionsT", lambda: None)()
        return lite.operator(kind, inputs, [target], options), target

    def product(made: list[Any], a: tuple[int, int], b: tuple[int, int], target: int) -> None:
        """Write (a + bi)(c + di)."""
        for which, kind, pairs in ((0, "SUB", ((0, 0), (1, 1))), (1, "ADD", ((0, 1), (1, 0)))):
            terms = []
            for left, right in pairs:
                operator, term = between("MUL", [a[left], b[right]], part(target, which), "term")
                made.append(operator)
                terms.append(term)
            options = getattr(lite.schema, f"{kind.capitalize()}OptionsT")()
            made.append(lite.operator(kind, terms, [part(target, which)], options))

    def cast(source: int, target: int) -> list[Any]:
        """Keep the real part, or have zeros for the imaginary one."""
        of_source, of_target = (
            lite.type_of(graph.tensors[i]).startswith("COMPLEX") for i in (source, target)
        )
        real = lite.operator("CAST", [part(source, 0)], [part(target, 0)])
        if not of_target:
            return [real]
        if of_source:
            return [real, lite.operator("CAST", [part(source, 1)], [part(target, 1)])]
        return [real, lite.operator("ZEROS_LIKE", [part(target, 0)], [part(target, 1)])]

    written: list[Any] = []
    for operator in graph.operators:
        operator.inputs = [same.get(index, index) for index in operator.inputs]
        kind, inputs, outputs = lite.kind(operator), operator.inputs, operator.outputs
        touched = [
            index
            for index in (*inputs, *outputs)
            if index >= 0 and lite.type_of(graph.tensors[index]).startswith("COMPLEX")
        ]
        if not touched:
            written.append(operator)
        elif kind == "RFFT2D":
            length = lite.constant(graph.tensors[inputs[1]])
            if length is None:
                raise NotSupportedError(
                    f"{lite.file}: RFFT2D ({graph.tensors[outputs[0]].name}) over a length that is "
                    "computed; export the network again with a constant fft_length"
                )
            if max(length) > _LONGEST:
                raise NotSupportedError(
                    f"{lite.file}: RFFT2D ({graph.tensors[outputs[0]].name}) over {max(length)} "
                    f"numbers: up to {_LONGEST} are written, as a product with a matrix; cut the "
                    "graph behind it with --inputs, and compute the spectrum before"
                )
            targets = [part(outputs[0], 0), part(outputs[0], 1)]
            options = {"length": [int(size) for size in length]}
            written.append(lite.operator("GRAFT_RFFT2D", inputs[:1], targets, options))
        elif kind in ("REAL", "IMAG"):
            same[outputs[0]] = part(inputs[0], int(kind == "IMAG"))
        elif kind == "CAST":
            written += cast(inputs[0], outputs[0])
        elif kind == "COMPLEX_ABS":
            squares = []
            for which in (0, 1):
                one = part(inputs[0], which)
                made, square = between("MUL", [one, one], outputs[0], "square")
                written.append(made)
                squares.append(square)
            made, total = between("ADD", squares, outputs[0], "sum")
            written += [made, lite.operator("SQRT", [total], outputs)]
        elif kind == "MUL":
            left = (part(inputs[0], 0), part(inputs[0], 1))
            product(written, left, (part(inputs[1], 0), part(inputs[1], 1)), outputs[0])
        elif kind in _MOVING:
            for which in (0, 1):
                one = copy.copy(operator)
                one.inputs = [part(index, which) if index >= 0 else index for index in inputs]
                one.outputs = [part(index, which) for index in outputs]
                written.append(one)
        else:
            raise NotSupportedError(
                f"{lite.file}: {kind} ({graph.tensors[outputs[0]].name}) of complex numbers can't "
                "be written in ONNX; cut the graph before it with --outputs"
            )
    graph.operators = written
    graph.outputs = [same.get(index, index) for index in graph.outputs]
    for index in (*graph.inputs, *graph.outputs):
        if lite.type_of(graph.tensors[index]).startswith("COMPLEX"):
            raise NotSupportedError(
                f"{lite.file}: {graph.tensors[index].name!r} is complex, which no input or output "
                "of an ONNX graph is here; cut the graph at its real and imaginary parts with "
                "--outputs"
            )
