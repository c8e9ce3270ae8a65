"""Time by layer, INT8 against float, on real networks: what keeps INT8 from being faster.

    python -m benchmarks.layers FOLDER [--shared ../shared] [--more] > benchmarks/layers.md

makes the graphs in FOLDER, from the networks and images in --shared, where they are not there; then
times whatever targets run on the machine. With --more it prints its section alone, to be put
behind that of another machine, to which FOLDER was carried.

Each library counts for itself: onnxruntime by its profile, OpenVINO by its counters, TensorRT by
its profiler. *whole* is what an inference takes while nothing is counted (TensorRT: on the GPU
alone), *in layers* the sum of what the layers take while they are: counting costs time, and
TensorRT's profiler waits behind each layer. *found* is the part of the sum that belongs to a layer
of the network. Each figure is a median of its own: on a machine that does other work, as the one of
the CPU's figures, the medians of short layers miss what interrupts them, and their sum stays below
the whole, which no run spares. A layer's precision is the engine's, with the graph's in brackets
where that is another.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.heading import heading, made_by

from onnxgraft.commands._layer_times import Timed, layer_times
from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.tensorrt.builder import gpu
from onnxgraft.stages.validate.report import LayerTimeRow

NETWORKS = {
    "fcn_camvid": ("pb", "score:0"), "mobilenet_camvid": ("pb", "score:0"),
    "segformer_camvid": ("onnx", None), "yolo_camvid": ("onnx", None),
}  # fmt: skip
MEAN = (109.56690979, 107.69937134, 104.42664337)
TARGETS = ("openvino", "onnxruntime", "tensorrt")
IMAGES, RUNS, SHOWN = 20, 20, 8
# In place of a graph all of whose layers are INT8, where a library refuses that.
_PRODUCTS = "products"


def prepare(folder: Path, shared: Path) -> None:
    """Write the float graph of each network, and its INT8 graph for each target."""
    from onnxgraft import commands
    from onnxgraft.data.preprocess import Preprocess
    from onnxgraft.data.samples import open_samples

    for name, (suffix, outputs) in NETWORKS.items():
        source = shared / "models" / name / f"{name}.{suffix}"
        graph = folder / f"{name}.float.onnx"
        commands.convert(source, graph, outputs=outputs, verify=False)
        model = Model.load(graph)
        yolo = name == "yolo_camvid"
        how = {"color": "rgb", "scale": 1 / 255} if yolo else {"color": "bgr", "mean": MEAN}
        samples = open_samples(
            shared / "data/camvid/calib", model.inputs, Preprocess(crop=(4, 0, 352, 480), **how),
            images=IMAGES,
        )  # fmt: skip
        ranges = commands.calibrate(graph, data=samples, method="minmax").ranges
        convolutions = [
            str(node.name) for node in model.graph.nodes if is_op(node, "Conv", "ConvTranspose")
        ]
        for kind, target, floats in (
            *((target, target, None) for target in TARGETS),
            (_PRODUCTS, "tensorrt", convolutions),
        ):
            try:
                commands.quantize(
                    graph, target, folder / f"{name}.{kind}.onnx", ranges=ranges,
                    keep_float=floats, improve=(),
                )  # fmt: skip
            except OnnxgraftError as error:  # a network of convolutions alone has no products
                print(f"{name}, {kind}: {error}", file=os.sys.stderr)


def timed(file: Path, target: str, precision: Any, name: str, place: Path) -> Timed | str:
    """Return the layers of an engine that is built for it, or why there is none."""
    if not file.is_file():
        return f"{name}: there is no such graph of this network"
    model = Model.load(file)
    path = place / "engine"
    options = BuildOptions(batches=(1,)) if target == "tensorrt" else BuildOptions()
    try:
        engine.build(model, path, target, precision=precision, options=options, prove=False)
        with engine.load(path) as built:
            times = engine.time_layers(built, random_feeds(built.inputs, 1), RUNS)
    except OnnxgraftError as error:
        return f"{name}: {str(error).partition(': ')[2][:300]}"
    return Timed(name, target, 1, times, model)


def engines(name: str, target: str) -> list[tuple[str, Any, str]]:
    """Return the graph, the precision and the name of each engine of a network."""
    rows: list[tuple[str, Any, str]] = [("float", "fp32", f"{target} fp32")]
    if target == "tensorrt":
        rows += [
            ("float", "fp16", "tensorrt fp16"),
            (target, "fp16", "tensorrt int8+fp16"),
            (_PRODUCTS, "fp16", "tensorrt int8 products+fp16"),
        ]
    else:
        rows.append((target, None, f"{target} int8"))
    return [(f"{name}.{kind}.onnx", precision, title) for kind, precision, title in rows]


def section(name: str, target: str, folder: Path) -> None:
    """Time one network on one target, and print what was seen."""
    with tempfile.TemporaryDirectory() as place:
        found = [
            timed(folder / file, target, precision, title, Path(place))
            for file, precision, title in engines(name, target)
        ]
    show(f"{name}, {target}", found)


def show(title: str, found: list[Timed | str]) -> None:
    """Print what was seen of the engines of a network."""
    print(f"\n### {title}\n")
    for told in found:
        if isinstance(told, str):
            print(f"Not built: {told}\n")
    rows, wholes = layer_times([one for one in found if isinstance(one, Timed)])
    print("| engine | whole, ms | in layers, ms | found |\n|---|---|---|---|")
    for whole in wholes:
        part = 100 * (1 - whole.lost / whole.layers)
        print(f"| {whole.engine} | {whole.total:.3f} | {whole.layers:.3f} | {part:.1f} % |")
    told = [f"- {whole.engine}: {sentence}" for whole in wholes for sentence in whole.slow]
    print("\n" + "\n".join(told) if told else "", end="\n\n")
    by_layer: dict[str, dict[str, LayerTimeRow]] = {}
    for row in rows:
        by_layer.setdefault(row.layer, {})[row.engine] = row
    costs = {layer: max(r.milliseconds for r in mine.values()) for layer, mine in by_layer.items()}
    names = [whole.engine for whole in wholes]
    print(f"| layer | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for layer in sorted(costs, key=lambda layer: -costs[layer])[:SHOWN]:
        mine = by_layer[layer]
        operator = next(iter(mine.values())).operator
        cells = [cell(mine[one]) if one in mine else "" for one in names]
        print(f"| `{layer}` {operator} | {' | '.join(cells)} |")


def cell(row: LayerTimeRow) -> str:
    """Return a layer's time and precision, with the graph's where that is another."""
    graph = "" if row.graph in ("", row.precision) else f" ({row.graph})"
    return f"{row.milliseconds:.3f} ms {row.precision}{graph}"


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--more", action="store_true")
    options = parser.parse_args()
    if not list(options.folder.glob("*.float.onnx")):
        options.folder.mkdir(parents=True, exist_ok=True)
        prepare(options.folder, options.shared)
    where = gpu()
    if not options.more:
        print(heading("Time by layer", __doc__, "FOLDER"))
    else:
        told = ", ".join(f"{key} {value}" for key, value in (where or {}).items())
        print(f"\n## On another machine\n\n{made_by('FOLDER', '--more', where=told)}")
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, load {load:.1f} before the run, batch 1, median of {RUNS} runs."
    )
    for target in TARGETS:
        if engine.runs_here(target) and (where is None or target == "tensorrt"):
            print(f"\n## {target}")
            for name in NETWORKS:
                section(name, target, options.folder)


if __name__ == "__main__":
    main()
