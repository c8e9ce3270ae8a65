"""Whether the loss that a budget states is the engine's, and how well the search knows layers.

    python -m benchmarks.budget > benchmarks/budget.md

needs what `benchmarks.proven` does.

The MobileNet is calibrated on 100 images and quantized within a budget on 24 validation images, by
the metric and by the signal over noise of the output. Then the graph that was written is built into
an engine and measured by itself, on the same images. `exact` is what the search saw; the loss that
is stated is the engine's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.heading import heading
from benchmarks.networks import Road, chosen

from onnxgraft.commands._budget import SENSITIVITY_SAMPLES, read_budget
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.run.difference import Difference
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.quantize.budget.search import mixed, noise, sensitivities
from onnxgraft.stages.quantize.improve.whole import spread
from onnxgraft.targets import find_target

IMAGES, TRIALS, MIXES = 24, 10, 12


def row(road: Road, target: str, budget: str, folder: Path) -> str:
    """Search, build what was found, measure it, and return the row of the table."""
    options = QuantizeOptions(
        quantize.placement(target, find_target(target).cpu()),
        improvements=quantize.IMPROVEMENTS, calibration=road.calibration,
        budget=read_budget(budget), validation=road.validation, classes="camvid", trials=TRIALS,
    )  # fmt: skip
    done = int8_graph(road.model, road.ranges, options)
    assert done.search is not None
    stated = done.search.rows[-1]
    samples = (sample.feeds for sample in road.calibration)
    engine.build(done.model, folder / "engine", target, samples=samples)
    metric, reference, difference = road.metric(), road.metric(), Difference()
    with OnnxRuntime(road.model.to_onnx()) as original, engine.load(folder / "engine") as built:
        for sample in road.validation:
            right = {name: v.copy() for name, v in original.infer(sample.feeds).items()}
            found = built.infer(sample.feeds)
            road.add(reference, sample, right)
            road.add(metric, sample, found)
            difference.add(next(iter(right.values())), next(iter(found.values())))
    values = (next(iter(each.values().values())) for each in (reference, metric))
    before, after = values
    measured = difference.sqnr if budget.startswith("sqnr") else before - after
    by_graph = stated.metric if budget.startswith("sqnr") else stated.loss
    by_engine = stated.engine if budget.startswith("sqnr") else stated.engine_loss
    inside, total = stated.layers.get("int8", 0), sum(stated.layers.values())
    met = "met" if done.search.passed else "not met"
    return (
        f"| {target} | {budget} | {met} | {inside} of {total} | "
        f"{by_graph:.3f} | {by_engine:.3f} | {measured:.3f} |"
    )


def prediction(road: Road) -> str:
    """Return how well the sum of the layers' sensitivities predicts the noise of random mixes."""
    table = quantize.placement("tensorrt")
    prepared = quantize.improve(road.model, road.ranges, table, road.calibration)
    layers = quantize.quantize(prepared.model, prepared.ranges, table)[1].layers
    few = spread(road.calibration, SENSITIVITY_SAMPLES)
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print(heading("Budgets and engines", __doc__))
    print("| target | budget | | layers in INT8 | exact | stated | engine, measured by itself |")
    print("|---|---|---|---|---|---|---|")
    (network,) = chosen(["mobilenet_camvid"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        road = Road(network, folder, IMAGES)
        for target in ("openvino", "onnxruntime"):
            for budget in ("miou=0.2", "sqnr=27"):
                print(row(road, target, budget, Path(temporary)), flush=True)
        print("\n## Sensitivity of layers, TensorRT's form\n")
        for network in chosen(["fcn_camvid", "mobilenet_camvid"]):
            print(f"- {network.name}: {prediction(Road(network, folder, IMAGES))}", flush=True)


if __name__ == "__main__":
    main()
