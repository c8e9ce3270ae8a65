"""Weights alone as INT8 and INT4: what is lost, how large files are, and how long an answer takes.

    python -m benchmarks.weights [quality] [time] > benchmarks/weights.md

needs segformer_camvid and the images that fcn_camvid.toml names.

The quality of a graph is judged by its exact reference on all validation images; the peer is
onnxruntime's own MatMulNBitsQuantizer, on the same float graph, judged alike. Times are those of
engines of both CPU targets, each in a process of its own, in turns. The fastest answer counts, as
the machine may have other work.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from benchmarks.heading import heading
from benchmarks.networks import Road, chosen

from onnxgraft.commands._bench import BenchTarget, measure
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.exact import exact
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.convert import Original
from onnxgraft.stages.quantize.improve.whole import noise_of
from onnxgraft.targets import WEIGHT_TYPES

ROUNDS, RUNS = 5, 20
# Numbers in a layer, layers, heads.
WIDTH, LAYERS, HEADS = 384, 6, 6


def peer(model: Model, path: Path, bits: int, block: int, symmetric: bool) -> Model:
    """Return what onnxruntime's own quantizer makes of a float graph; weights stay in the file."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = MatMulNBitsQuantizer(
        model.to_onnx(), bits=bits, block_size=block, is_symmetric=symmetric, accuracy_level=1
    )
    made.process()
    made.model.save_model_to_file(str(path))
    return Model.load(path)


def quality(folder: Path) -> None:
    """Print the table of segformer_camvid."""
    (network,) = chosen(["segformer_camvid"])
    road = Road(network, folder)
    table = quantize.placement("onnxruntime")
    graphs = {"float32": road.model}
    seconds: dict[str, float] = {}
    for kind in WEIGHT_TYPES:
        bits, blocks = (8, (128,)) if kind == "int8" else (4, (32, 128))
        for block in blocks:
            name = f"{kind.upper()}, blocks of {block}"
            for how, samples in (("nearest", None), ("with samples", road.calibration)):
                start = time.perf_counter()
                graphs[f"{name}, {how}"], _ = quantize.store_weights(
                    road.model, table, kind, block=block, samples=samples
                )
                seconds[f"{name}, {how}"] = time.perf_counter() - start
            for symmetric in (True, False):
                zero = "symmetric" if symmetric else "zero points"
                graphs[f"{name}, onnxruntime's quantizer, {zero}"] = peer(
                    road.model, folder / f"peer{len(graphs)}.onnx", bits, block, symmetric
                )
    print("\n## segformer_camvid\n")
    print("| weights | class mIoU | signal over noise | file | made in |\n|---|---|---|---|---|")
    expected: list[dict[str, Array]] = []
    for name, graph in graphs.items():
        graph.save(folder / "graph.onnx")
        size = (folder / "graph.onnx").stat().st_size
        metric, noises = road.metric(), []
        assert metric is not None
        with exact(graph) as session:
            for index, sample in enumerate(road.validation):
                found = session.infer(sample.feeds)
                road.add(metric, sample, found)
                if name == "float32":
                    expected.append(found)
                else:
                    noises.append(noise_of(expected[index], found))
        kept = f"{-np.mean(noises):.1f} dB" if noises else ""
        took = f"{seconds[name]:.0f} s" if name in seconds else ""
        miou = next(iter(metric.values().values()))
        print(f"| {name} | {miou:.2f} | {kept} | {size / 1e6:.2f} MB | {took} |", flush=True)


def transformer(tokens: int) -> Model:
    """Return a network of attention and MLPs over ``tokens``, of random weights."""
    rng = np.random.default_rng(0)
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(value: Array) -> str:
        constants.append(onnx.numpy_helper.from_array(value, f"c{len(constants)}"))
        return constants[-1].name

    def node(op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op}{len(nodes)}"
        nodes.append(onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def dense(x: str, inputs: int, outputs: int) -> str:
        weights = rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        product = node("MatMul", x, constant(weights.astype(np.float32)))
        return node("Add", product, constant(np.zeros(outputs, np.float32)))

    def normalized(x: str) -> str:
        ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
        return node("LayerNormalization", x, constant(ones), constant(zeros), axis=-1)

    heads = constant(np.array([0, tokens, HEADS, WIDTH // HEADS]))
    whole = constant(np.array([0, tokens, WIDTH]))
    factor = constant(np.float32((WIDTH // HEADS) ** -0.5))
    x = "x"
    for _ in range(LAYERS):
        inner = normalized(x)
        query, key, value = (
            node("Transpose", node("Reshape", dense(inner, WIDTH, WIDTH), heads), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = node("Softmax", node("Mul", node("MatMul", query, key), factor), axis=-1)
        context = node("Transpose", node("MatMul", scores, value), perm=[0, 2, 1, 3])
        x = node("Add", x, dense(node("Reshape", context, whole), WIDTH, WIDTH))
        wide = node("Relu", dense(normalized(x), WIDTH, 4 * WIDTH))
        x = node("Add", x, dense(wide, 4 * WIDTH, WIDTH))
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, tokens, WIDTH])
        for name in ("x", x)
    ]
    graph = onnx.helper.make_graph(nodes, "transformer", ends[:1], ends[1:], constants)
    imports = [onnx.helper.make_opsetid("", 17)]
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    return Model.from_onnx(proto, Source("transformer", "onnx", ""))


def times(folder: Path) -> None:
    """Print the table of times."""
    print(f"\n## {LAYERS} layers of attention and MLP, {WIDTH} wide, random weights\n")
    print("| tokens | weights | graph | | engine | proven | time | over float |")
    print("|---|---|---|---|---|---|---|---|")
    for tokens in (1, 128):
        model = transformer(tokens)
        feeds = {"x": np.random.default_rng(1).standard_normal((1, tokens, WIDTH), np.float32)}
        for target in ("onnxruntime", "openvino"):
            rows: list[list[str]] = []
            targets: list[BenchTarget] = []
            for kind in (None, *WEIGHT_TYPES):
                graph = model
                if kind is not None:
                    graph, _ = quantize.store_weights(model, quantize.placement(target), kind)
                name = "float32" if kind is None else kind.upper()
                place = folder / f"{tokens}.{target}.{name}"
                file = place.with_name(f"{place.name}.onnx")
                graph.save(file)
                passport = engine.build(graph, place, target, samples=[feeds])
                sizes = [f"{each.stat().st_size / 1e6:.1f} MB" for each in (file, place)]
                proven = "yes" if passport.proven else "NO"
                rows.append([str(tokens), name, sizes[0], target, sizes[1], proven])
                targets.append(BenchTarget(name, "engine", Original(str(place))))
            timed = measure(targets, batches=(1,), rounds=ROUNDS, runs=RUNS)
            fastest = {row.name: min(row.times_ms) for row in timed}
            for row in rows:
                least = fastest[row[1]]
                ratio = f"{fastest['float32'] / least:.2f}x"
                print(f"| {' | '.join([*row, f'{least:.2f} ms', ratio])} |", flush=True)


def main() -> None:
    """Print the tables as Markdown."""
    parts = sys.argv[1:] or ["quality", "time"]
    print(heading("Weights alone as INT8 and INT4", __doc__, *sys.argv[1:]))
    with tempfile.TemporaryDirectory() as folder:
        if "quality" in parts:
            quality(Path(folder))
        if "time" in parts:
            times(Path(folder))


if __name__ == "__main__":
    main()
