"""Whether the loss that a budget states is the engine's.

    python -m benchmarks.budget > benchmarks/budget.md

needs what `benchmarks.proven` does. The MobileNet is calibrated on 100 images and quantized within
a budget on 24 validation images, by the metric and by the signal over noise of the output. Then the
graph that was written is built into an engine and measured by itself, on the same images. `exact`
is what the search saw; the loss that is stated is the engine's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.proven import NETWORKS, Road

from onnxgraft.commands._budget import read_budget
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.run.difference import Difference
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.validate.report import versions
from onnxgraft.targets import find_target
from onnxgraft.targets.cpu import this_cpu

IMAGES, TRIALS = 24, 10


def row(road: Road, target: str, budget: str, folder: Path) -> str:
    """Search, build what was found, measure it, and return the row of the table."""
    options = QuantizeOptions(
        quantize.placement(target, find_target(target).cpu()),
        improvements=quantize.DEFAULT_IMPROVEMENTS, calibration=road.calibration,
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
            right = next(iter(original.infer(sample.feeds).values())).copy()
            found = next(iter(built.infer(sample.feeds).values()))
            road.add(reference, sample.name, right, sample.label)
            road.add(metric, sample.name, found, sample.label)
            difference.add(right, found)
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print("# Budgets and engines\n")
    print(
        f"{time.strftime('%Y-%m-%d')}, {this_cpu()}; "
        + ", ".join(f"{k} {v}" for k, v in versions().items())
    )
    print("\n" + (__doc__ or "").split("\n\n", 2)[2].strip() + "\n")
    print("| target | budget | | layers in INT8 | exact | stated | engine, measured by itself |")
    print("|---|---|---|---|---|---|---|")
    network = next(network for network in NETWORKS if network.name == "mobilenet_camvid")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        road = Road(network, folder, IMAGES)
        for target in ("openvino", "onnxruntime"):
            for budget in ("miou=0.2", "sqnr=27"):
                print(row(road, target, budget, Path(temporary)), flush=True)


if __name__ == "__main__":
    main()
