"""For TensorRT: write a suppression of overlapping boxes whose scores are put back in fixed sizes.

Given:  chosen = NonMaxSuppression(boxes, candidates, most, overlap, least)
        kept = ScatterND(nothing, chosen, GatherND(scores, chosen))
Result: the best T candidates of each class by falling score, O[j, i] = 1 where the earlier j
        overlaps i, and a Loop of
            keep = valid and not keep O
        until nothing changes: box i is right after i steps at most, as it depends on earlier ones
        alone. kept = ScatterElements(nothing, index, keep ? scores : nothing)

It is what the DetectionOutput of a Caffe SSD becomes. A chosen box has no fixed number, so the
NonMaxSuppression needs a kernel that not every TensorRT has, and what follows needs shapes that
are known when the engine runs; here all sizes are known when it is built. T is the number of
candidates where a TopK limits them, else of all boxes.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

# What TensorRT's TopK takes.
_MOST = 3840


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every NonMaxSuppression whose indices gather and scatter scores alone."""
    result = Result()
    for node in nodes_of(graph, "NonMaxSuppression"):
        scatter = _scatter(node, context)
        if scatter is None:
            result.refuse(node, "its indices are used otherwise than to put scores back")
            continue
        shape = context.shapes.shape(node.inputs[1])
        limits = [constant(tensor) for tensor in node.inputs[2:]]
        fixed = shape is not None and len(shape) == 3 and shape[1].fixed and shape[2].fixed
        if not fixed or len(limits) != 3 or any(limit is None for limit in limits):
            result.refuse(node, "its sizes or limits are not constant")
            continue
        classes, boxes = shape[1].number, shape[2].number  # type: ignore[index]
        most, overlap, least = (float(np.asarray(limit).ravel()[0]) for limit in limits)
        count = _candidates(node.inputs[1], context) or boxes
        if most < count or count > _MOST or node.attrs.get("center_point_box", 0):
            result.refuse(node, f"{count} candidates of {most:g} are more than can be sorted here")
            continue
        _rewrite(context, node, scatter, (classes, boxes, count), (overlap, least))
        result.did(node, f"a Loop over the best {count} candidates of each class")
    return result


def _scatter(node: gs.Node, context: Context) -> gs.Node | None:
    """Return the ScatterND that puts the scores of what ``node`` chooses back."""
    chosen = node.outputs[0]
    users = [other for other in chosen.outputs if context.inside([other])]
    gathers = [other for other in users if is_op(other, "GatherND")]
    scatters = [other for other in users if is_op(other, "ScatterND")]
    if len(users) != 2 or len(chosen.outputs) != 2 or context.is_output(chosen):
        return None
    if len(gathers) != 1 or len(scatters) != 1 or gathers[0].attrs.get("batch_dims", 0):
        return None
    found = gathers[0].outputs[0]
    scatter: gs.Node = scatters[0]
    put_back = scatter.inputs[2] is found and context.single_consumer(found) is scatter
    return scatter if put_back and scatter.attrs.get("reduction", "none") == "none" else None


def _candidates(scores: gs.Tensor, context: Context) -> int | None:
    """Return how many scores of a class can be candidates, where a TopK put them back."""
    put_back = context.producer(scores)
    if put_back is None or not is_op(put_back, "ScatterElements"):
        return None
    best = context.producer(put_back.inputs[2])
    if best is None or not is_op(best, "TopK"):
        return None
    limit = constant(best.inputs[1])
    return None if limit is None else int(limit.ravel()[0])


def _rewrite(
    context: Context,
    node: gs.Node,
    scatter: gs.Node,
    sizes: tuple[int, int, int],
    limits: tuple[float, float],
) -> None:
    classes, _, count = sizes
    overlap, least = limits
    gather = scatter.inputs[2].inputs[0]
    scores, nothing, kept = gather.inputs[0], scatter.inputs[0], scatter.outputs[0]
    detach(gather)
    detach(scatter)
    build = Builder(context, node)
    boxes, candidates = build.inputs[:2]

    values, index = (context.variable(f"{node.name}/best_{i}", candidates) for i in range(2))
    index.dtype = np.dtype(np.int64)
    context.add("TopK", f"{node.name}/TopK", [candidates, build.integers("count", count)],
                [values, index], axis=2)  # fmt: skip
    valid = build.add("Greater", values, build.constant("least", np.array(least, np.float32)),
                      dtype=np.bool_)  # fmt: skip
    valid = build.add("Cast", valid, dtype=np.float32, to=1)
    rows = build.integers("rows", -1, 1, count)
    valid = build.add("Reshape", valid, rows)

    places = build.add("Reshape", index, build.integers("places", 0, classes * count, 1))
    own = build.add("GatherND", boxes, places, batch_dims=1)
    own = build.add("Reshape", own, build.integers("boxes", -1, count, 4))
    over = _overlaps(build, own, count, overlap)
    keep = _loop(context, node.name, valid, over, count)
    keep = build.add("Reshape", keep, build.integers("classes", -1, classes, count))
    flags = build.add("Greater", keep, build.constant("half", np.array(0.5, np.float32)),
                      dtype=np.bool_)  # fmt: skip
    taken = build.add("GatherElements", scores, index, axis=2)
    empty = build.add("GatherElements", nothing, index, axis=2)
    told = build.add("Where", flags, taken, empty, dtype=np.float32)
    build.add("ScatterElements", nothing, index, told, output=kept, axis=2)


def _overlaps(build: Builder, boxes: gs.Tensor, count: int, overlap: float) -> gs.Tensor:
    """Return (R, T, T): 1 at [j, i] where j stands before i and overlaps it too much."""
    first, second = (
        build.add("Gather", boxes, build.integers(f"corner_{i}", 2 * i, 2 * i + 1), axis=2)
        for i in range(2)
    )
    low, high = build.add("Min", first, second), build.add("Max", first, second)
    sides = build.add("Sub", high, low)
    height, width = (
        build.add("Gather", sides, build.constant(f"side_{i}", np.array(i, np.int64)), axis=2)
        for i in range(2)
    )
    area = build.add("Mul", height, width)

    def beside(tensor: gs.Tensor, axis: int) -> gs.Tensor:
        return build.add("Unsqueeze", tensor, build.integers(f"axis_{axis}", axis))

    ends = build.add("Min", beside(high, 2), beside(high, 1))
    begins = build.add("Max", beside(low, 2), beside(low, 1))
    zero = build.constant("zero", np.array(0, np.float32))
    common = build.add("Max", build.add("Sub", ends, begins), zero)
    tall, wide = (
        build.add("Gather", common, build.constant(f"common_{i}", np.array(i, np.int64)), axis=3)
        for i in range(2)
    )
    both = build.add("Mul", tall, wide)
    union = build.add("Sub", build.add("Add", beside(area, 2), beside(area, 1)), both)
    # Two boxes without an area overlap by 0 / 0, which is above nothing.
    ratio = build.add("Div", both, union)
    limit = build.constant("overlap", np.array(overlap, np.float32))
    above = build.add("Greater", ratio, limit, dtype=np.bool_)
    above = build.add("Cast", above, dtype=np.float32, to=1)
    earlier = np.triu(np.ones((count, count), np.float32), 1)
    return build.add("Mul", above, build.constant("earlier", earlier))


def _loop(context: Context, name: str, valid: gs.Tensor, over: gs.Tensor, count: int) -> gs.Tensor:
    """Return what is left (R, 1, T) when each box is held against the ones before it."""
    half = context.constant(f"{name}/step/half", np.array(0.5, np.float32))

    def variable(what: str, dtype: type, shape: list[int | str] | None = None) -> gs.Variable:
        return gs.Variable(context.free_name(f"{name}/step/{what}"), dtype, shape)

    step = variable("number", np.int64, [])
    going = variable("going", np.bool_, [])
    rows: list[int | str] = [f"{name}/rows", 1, count]
    before, after = variable("before", np.float32, rows), variable("after", np.float32, rows)
    hits, free = variable("hits", np.float32), variable("free", np.bool_)
    left, change = variable("left", np.float32), variable("change", np.float32)
    size, largest = variable("size", np.float32), variable("largest", np.float32)
    changed = variable("changed", np.bool_, [])
    nodes = [
        context.node(op, f"{name}/step/{op}", inputs, [output], **attrs)
        for op, inputs, output, attrs in (
            ("MatMul", [before, over], hits, {}),
            ("Less", [hits, half], free, {}),
            ("Cast", [free], left, {"to": 1}),
            ("Mul", [valid, left], after, {}),
            ("Sub", [after, before], change, {}),
            ("Abs", [change], size, {}),
            ("ReduceMax", [size], largest, {"keepdims": 0}),
            ("Greater", [largest, half], changed, {}),
        )
    ]
    body = gs.Graph(
        nodes, [step, going, before], [changed, after], name=f"{name}/step", opset=context.opset
    )
    result = context.variable(f"{name}/keep", valid)
    trips = context.constant(f"{name}/steps", np.array(count, np.int64))
    go = context.constant(f"{name}/go", np.array(True))
    context.add("Loop", f"{name}/Loop", [trips, go, valid], [result], body=body)
    return result
