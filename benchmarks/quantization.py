"""What INT8 costs in accuracy and gains in latency on the street-scene networks, beside the peers.

    python -m benchmarks.quantization > benchmarks/quantization.md

needs the networks and images that fcn_camvid.toml names, and for ModelOpt's rows a Python that has
`nvidia-modelopt[onnx]`, named by ONNXGRAFT_MODELOPT. Everything is calibrated on the same 100
images, validated on the same 101, and starts from the same float graph: TensorFlow's, converted and
cleaned. Accuracy is that of the graph in onnxruntime; each latency row is a process of its own, and
they take turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft import commands
from onnxgraft.commands._bench import BenchTarget, measure
from onnxgraft.commands._budget import SENSITIVITY_SAMPLES, read_budget
from onnxgraft.commands._int8 import Int8Graph, QuantizeOptions, int8_graph
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Outputs
from onnxgraft.run.difference import Difference
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.convert import Original
from onnxgraft.stages.quantize.budget.search import mixed, noise, sensitivities
from onnxgraft.stages.quantize.improve.whole import spread
from onnxgraft.stages.validate import make_metric
from onnxgraft.stages.validate.metrics import Answered
from onnxgraft.stages.validate.report import versions

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
MODELOPT = os.environ.get("ONNXGRAFT_MODELOPT")
OUTPUT = "score:0"
# The budgets that are searched: the one that was asked for, and one that takes a mix.
BUDGETS = {"fcn_camvid": ("miou=0.3",), "mobilenet_camvid": ("miou=0.3", "miou=0.1")}
MIXES = 12


@dataclass
class Network:
    """One network with its data, and what its float graph answers."""

    name: str
    model: Model
    calibration: Samples
    validation: Samples
    expected: list[Outputs]


def load(name: str, folder: Path) -> Network:
    """Convert and clean a network; run its float graph on the validation images."""
    recipe = commands.read_recipe(RECIPE)
    path = Path(recipe.model).parent.parent / name / f"{name}.pb"
    file = folder / f"{name}.onnx"
    commands.convert(str(path), outputs=OUTPUT, verify=False).model.save(file)
    model = Model.load(file)
    calibration = open_samples(recipe.calibrate.data, model.inputs, recipe.preprocess)
    validation = open_samples(recipe.validation.data, model.inputs, recipe.preprocess)
    with OnnxRuntime(model.to_onnx()) as session:
        expected = [session.infer(sample.feeds) for sample in validation]
    return Network(name, model, calibration, validation, expected)


def accuracy(network: Network, model: Model | None) -> tuple[float, float, float]:
    """Return class mIoU, category mIoU and SQNR in dB; of the float graph where there is none."""
    metric, difference = make_metric("miou", "camvid"), Difference()
    session = OnnxRuntime(model.to_onnx()) if model is not None else None
    for sample, right in zip(network.validation, network.expected, strict=True):
        found = right if session is None else session.infer(sample.feeds)
        assert sample.label is not None
        metric.add(Answered(found[OUTPUT]), sample.label)
        difference.add(right[OUTPUT], found[OUTPUT])
    classes, categories = metric.values().values()
    return classes, categories, difference.sqnr


class Accuracy:
    """Prints the rows of a table as they are measured."""

    def __init__(self, network: Network) -> None:
        """Measure the float graph and print the head."""
        self.network = network
        print("| | class mIoU | drop | category mIoU | drop | SQNR | made in |")
        print("|---|---|---|---|---|---|---|")
        self.before = accuracy(network, None)
        print(f"| float | {self.before[0]:.2f} | | {self.before[1]:.2f} | | | |", flush=True)

    def row(self, what: str, model: Model, seconds: float) -> None:
        """Measure and print one row."""
        classes, categories, sqnr = accuracy(self.network, model)
        print(f"| {what} | {classes:.2f} | {self.before[0] - classes:.2f} | {categories:.2f} | "
              f"{self.before[1] - categories:.2f} | {sqnr:.1f} dB | {seconds:.0f} s |",
              flush=True)  # fmt: skip


def onnxruntime_graph(network: Network, path: Path, *, symmetric: bool) -> Model:
    """Quantize with onnxruntime's quantize_static; return the graph."""
    quantize_statically(network.model, network.calibration, path, symmetric=symmetric)
    return Model.load(path)


def quantize_statically(model: Model, data: Samples, path: Path, *, symmetric: bool) -> None:
    """Quantize with onnxruntime's quantize_static, minmax, weights per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    samples = iter(data)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            sample = next(samples, None)
            return None if sample is None else dict(sample.feeds)

    quantize_static(
        model.file, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
    )  # fmt: skip


def modelopt_graph(network: Network, path: Path) -> Model:
    """Quantize with ModelOpt's entropy, in its own environment."""
    code = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
model, data, out = sys.argv[1:]
quantize(model, quantize_mode="int8", calibration_method="entropy", calibration_eps=["cpu"],
         calibration_data=dict(np.load(data)), output_path=out, log_level="ERROR")
"""
    data, copy = path.with_suffix(".npz"), path.with_suffix(".copy.onnx")
    shutil.copy(network.model.file, copy)  # it writes into the file that it is given
    (name,) = (spec.name for spec in network.model.inputs)
    images = [sample.feeds[name] for sample in network.calibration]
    np.savez(data, **{name: np.concatenate(images)})
    subprocess.run(
        [str(MODELOPT), "-c", code, copy, data, path],
        check=True, capture_output=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    data.unlink()
    return Model.load(path)


def ours(
    network: Network, ranges: Any, target: str, methods: Collection[str], **options: Any
) -> Int8Graph:
    """Quantize with onnxgraft."""
    return int8_graph(
        network.model, ranges,
        QuantizeOptions(
            quantize.placement(target), improvements=tuple(methods),
            calibration=network.calibration, **options,
        ),
    )  # fmt: skip


def ablation() -> Iterable[tuple[str, tuple[str, ...]]]:
    """Return the rows of methods: none, each alone, the usual ones without each, and with more."""
    usual = quantize.DEFAULT_IMPROVEMENTS
    yield "none of the methods", ()
    for method in quantize.IMPROVEMENTS:
        yield f"{method} alone", (method,)
    for method in usual:
        yield f"the usual ones without {method}", tuple(m for m in usual if m != method)
    for method in quantize.IMPROVEMENTS:
        if method not in usual:
            yield f"the usual ones and {method}", (*usual, method)


def prediction(network: Network, prepared: quantize.Prepared) -> str:
    """Return how well the sum of the layers' sensitivities predicts the noise of random mixes."""
    table = quantize.placement("tensorrt")
    layers = quantize.quantize(prepared.model, prepared.ranges, table)[1].layers
    few = spread(network.calibration, SENSITIVITY_SAMPLES)
    start = time.perf_counter()
    alone = sensitivities(prepared, table, layers, few)
    seconds = time.perf_counter() - start
    with OnnxRuntime(prepared.model.to_onnx()) as session:
        right = [session.infer(sample.feeds) for sample in few]
    rng = np.random.default_rng(0)
    predicted, measured = [], []
    for part in np.linspace(0.1, 0.9, MIXES):
        kept = [name for name in layers if rng.random() < part]
        with OnnxRuntime(mixed(prepared, table, kept).to_onnx()) as session:
            found = [noise(r, session.infer(s.feeds)) for r, s in zip(right, few, strict=True)]
        measured.append(float(np.mean(found)))
        predicted.append(sum(alone[name] for name in layers if name not in kept))
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, measured)]
    off = 10 * np.log10(np.array(predicted) / np.array(measured))
    return (
        f"Sensitivity: {len(layers)} layers, {SENSITIVITY_SAMPLES} images each, {seconds:.0f} s. "
        f"Over {MIXES} random mixes with a tenth to nine tenths of the layers in float the sum of "
        f"the sensitivities ranks the measured noise with Spearman's "
        f"{np.corrcoef(*ranks)[0, 1]:.2f}; it is {np.median(off):+.1f} dB off in the median "
        f"({off.min():+.1f} to {off.max():+.1f})."
    )


def latency(files: dict[str, tuple[Model, str, str | None]], folder: Path, rounds: int) -> None:
    """Print the latency of graphs: (graph, engine, precision) by row, the first is the base."""
    targets = []
    for number, (what, (model, target, precision)) in enumerate(files.items()):
        path = folder / f"{number}.engine"
        engine.build(model, path, target, precision=precision)  # type: ignore[arg-type]
        targets.append(BenchTarget(what, "engine", Original.of(path)))
    rows = measure(targets, rounds=rounds, runs=10)
    print("\n| graph | engine | median ms | over onnxruntime FP32 |")
    print("|---|---|---|---|")
    for row, (_, target, _) in zip(rows, files.values(), strict=True):
        print(f"| {row.name} | {target} | {row.median_ms:.1f} | "
              f"{rows[0].median_ms / row.median_ms:.2f}x |", flush=True)  # fmt: skip


def tables(name: str, folder: Path, rounds: int) -> None:
    """Print everything about one network."""
    network = load(name, folder)
    graphs: dict[str, tuple[Model, str, str | None]] = {
        "float": (network.model, "onnxruntime", None),
        "float, OpenVINO": (network.model, "openvino", None),
        "float in BF16": (network.model, "openvino", "bf16"),
    }
    print(f"\n## {name}\n\n### All INT8: the peers, and ours by the method that chooses ranges\n")
    table = Accuracy(network)

    def timed(what: str, make: Any) -> Model:
        start = time.perf_counter()
        model: Model = make()
        table.row(what, model, time.perf_counter() - start)
        return model

    asymmetric = timed(
        "onnxruntime minmax, its uint8 form",
        partial(onnxruntime_graph, network, folder / f"{name}.ort8.onnx", symmetric=False),
    )
    timed(
        "onnxruntime minmax, int8 symmetric",
        partial(onnxruntime_graph, network, folder / f"{name}.orts.onnx", symmetric=True),
    )
    graphs["onnxruntime's uint8 graph"] = (asymmetric, "onnxruntime", None)
    graphs["onnxruntime's uint8 graph, OpenVINO"] = (asymmetric, "openvino", None)
    if MODELOPT:
        theirs = timed(
            "ModelOpt entropy", partial(modelopt_graph, network, folder / f"{name}.mo.onnx")
        )
        graphs["ModelOpt's graph"] = (theirs, "openvino", None)
    start = time.perf_counter()
    ranges = quantize.calibrate(network.model, network.calibration)
    calibrated = time.perf_counter() - start
    for method in quantize.METHODS:
        chosen = quantize.rechoose(ranges, method)
        timed(
            f"ours, TensorRT's form, {method}",
            lambda r=chosen: ours(network, r, "tensorrt", ()).model,
        )
    best = timed(
        "**ours, TensorRT's form, entropy and the usual methods**",
        lambda: ours(network, ranges, "tensorrt", quantize.DEFAULT_IMPROVEMENTS).model,
    )
    form = ours(network, ranges, "openvino", quantize.DEFAULT_IMPROVEMENTS).model
    graphs["**ours, all INT8**"] = (form, "openvino", "int8")
    graphs["**ours, INT8, the rest in BF16**"] = (form, "openvino", "bf16")
    own = timed(
        "**ours, onnxruntime's form, entropy and the usual methods**",
        lambda: ours(network, ranges, "onnxruntime", quantize.DEFAULT_IMPROVEMENTS).model,
    )
    graphs["**ours, onnxruntime's form**"] = (own, "onnxruntime", None)
    size = Path(network.model.file).stat().st_size
    best.save(folder / "best.onnx")
    print(f"\nCalibration, once for all of ours: {calibrated:.0f} s. The INT8 graph's file is "
          f"{(folder / 'best.onnx').stat().st_size / size:.2f} of the float one's.")  # fmt: skip
    print("\n### The methods, TensorRT's form, ranges by entropy\n")
    table = Accuracy(network)
    for what, methods in ablation():
        timed(what, lambda m=methods: ours(network, ranges, "tensorrt", m).model)
    print("\n### Within a budget, the float layers in BF16\n")
    table = Accuracy(network)
    told = []
    for budget in BUDGETS[name]:
        start = time.perf_counter()
        done = ours(
            network, ranges, "openvino", quantize.DEFAULT_IMPROVEMENTS, floats="bf16",
            budget=read_budget(budget), validation=network.validation,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        assert done.search is not None
        share = f"{100 * done.search.rows[-1].macs_int8:.1f} % of the MACs in INT8"
        table.row(f"`--budget {budget}`: {share}", done.model, seconds)
        told.append(f"`--budget {budget}`: {done.search}; latency {done.search.latency}.")
        graphs[f"**ours, `--budget {budget}`, the rest in BF16**"] = (
            done.model, "openvino", "bf16",
        )  # fmt: skip
    print("\n" + "\n\n".join(told))
    prepared = quantize.improve(network.model, ranges, "tensorrt", network.calibration)
    print("\n" + prediction(network, prepared))
    print("\n### Latency, batch 1")
    latency(graphs, folder, rounds)


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("networks", nargs="*", default=list(BUDGETS))
    options = parser.parse_args()
    print("# Quantization\n")
    print(f"Made by `python -m benchmarks.quantization` on {time.strftime('%Y-%m-%d')}, with")
    print(", ".join(f"{name} {version}" for name, version in versions().items()) + ".")
    print(
        "Calibrated on 100 images, validated on 101; drops are in points. *The usual methods* are"
    )
    print(f"{', '.join(quantize.DEFAULT_IMPROVEMENTS)}: what `onnxgraft quantize --samples` does.")
    print(f"{os.cpu_count()} cores, shared with others: of latencies, ratios count.", flush=True)
    for name in options.networks:
        with tempfile.TemporaryDirectory() as place:
            tables(name, Path(place), options.rounds)


if __name__ == "__main__":
    main()
