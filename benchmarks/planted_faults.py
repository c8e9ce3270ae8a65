"""A hundred faults planted into five networks at published size: how often the layer is named.

    python -m benchmarks.planted_faults > benchmarks/planted_faults.md

needs the networks and images that fcn_camvid.toml and its neighbours name; the others are made
here, with random weights. Faults are those of tests/validate/planted.py.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from benchmarks.heading import made_by

from models.caffe_batchnorm import resnet
from models.caffe_classifiers import googlenet
from onnxgraft import commands
from onnxgraft.data.samples import open_samples
from onnxgraft.stages.convert import Original
from onnxgraft.stages.validate import find_divergence
from tests.validate.planted import KINDS, Healthy, healthy, plant

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
TRIALS = 100
IMAGES = 4


def networks(folder: Path) -> list[Healthy]:
    """Return the five networks, in their frameworks and as graphs."""
    recipe = commands.read_recipe(RECIPE)
    fcn = Path(recipe.model)
    mobilenet = fcn.parents[1] / "mobilenet_camvid/mobilenet_camvid.pb"
    found = []
    for name, path, how in (
        ("FCN-16s, TensorFlow", fcn, {"outputs": "score:0,prob:0"}),
        ("MobileNetV3-like, TensorFlow", mobilenet, {"outputs": "score:0,labels:0"}),
        (
            "FCN-16s, Caffe",
            fcn.with_suffix(".prototxt"),
            {"weights": str(fcn.with_suffix(".caffemodel"))},
        ),
    ):
        with Original.of(path, **how).run() as original:
            samples = open_samples(
                recipe.validation.data, original.inputs, recipe.preprocess, images=IMAGES
            )
        found.append(healthy(name, path, samples, **how))
    for name, make in (("ResNet-50, Caffe", resnet), ("GoogLeNet, Caffe", googlenet)):
        text, weights = make()
        path = folder / f"{make.__name__}.prototxt"
        path.write_text(text)
        path.with_suffix(".caffemodel").write_bytes(weights)
        images = np.random.default_rng(0).standard_normal((IMAGES, 3, 224, 224))
        np.savez(path.with_suffix(".npz"), data=images.astype(np.float32))
        weights_file = str(path.with_suffix(".caffemodel"))
        found.append(healthy(name, path, path.with_suffix(".npz"), weights=weights_file))
    return found


def main() -> None:
    """Plant, search, and print what was found as Markdown."""
    print("# Faults planted at random layers\n")
    print(made_by() + "\n")
    rng = np.random.default_rng(0)
    named: Counter[tuple[str, str]] = Counter()
    tried: Counter[tuple[str, str]] = Counter()
    missed, seconds, alone = [], [], 0
    with tempfile.TemporaryDirectory() as place:
        five = networks(Path(place))
        print("| healthy network | FP32 | FP16 | INT8 |\n|---|---|---|---|")
        for network in five:
            cells = []
            for model in (network.fp32, network.fp16, network.int8):
                found = find_divergence(network.original, model, network.feeds)
                cells.append("no layer named" if found is None else str(found))
            print(f"| {network.name} | {' | '.join(cells)} |", flush=True)
        for trial in range(TRIALS):
            network, kind = five[trial % len(five)], KINDS[trial // len(five) % len(KINDS)]
            planted = plant(network, kind, rng)
            start = time.perf_counter()
            found = find_divergence(network.original, planted.model, network.feeds)
            seconds.append(time.perf_counter() - start)
            tried[network.name, kind] += 1
            if found is not None and planted.node in found.nodes:
                named[network.name, kind] += 1
                alone += len(found.nodes) == 1
            else:
                missed.append(f"{network.name}, {kind} at {planted.node}: {found}")
    print("\nNamed of planted:\n")
    print(f"| network | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for network in five:
        pairs = [(network.name, kind) for kind in KINDS]
        print(f"| {network.name} | {' | '.join(f'{named[p]} of {tried[p]}' for p in pairs)} |")
    print(
        f"\nIn all {named.total()} of {tried.total()}, {alone} of them as the only node; a search"
    )
    print(f"took {statistics.median(seconds):.1f} s (median), {max(seconds):.1f} s at most.")
    for line in missed:
        print(f"\nMissed: {line}.")


if __name__ == "__main__":
    main()
