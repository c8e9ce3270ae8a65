"""How much of each tensor entropy calibration clips: as published, with its usual mend, and here.

    python -m benchmarks.entropy > benchmarks/entropy.md

needs the network and images that fcn_camvid.toml names, and trains LeNet-5 for the digits.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.heading import made_by

from onnxgraft import commands
from onnxgraft.data.ranges import Histogram
from onnxgraft.data.samples import open_samples
from onnxgraft.stages.quantize import calibrate
from onnxgraft.stages.quantize.measure.thresholds import entropy_threshold, linear_bins

ROOT = Path(__file__).parent.parent


def row(network: str, name: str, histogram: Histogram) -> str:
    """Return the percentage of values other than zero that each variant clips."""
    counts = linear_bins(histogram)
    nonzero = counts.copy()
    nonzero[0] -= histogram.magnitudes()[0]
    overwritten = counts.copy()
    overwritten[0] = overwritten[1]
    thresholds = (
        entropy_threshold(counts, most_clipped=1.0),
        entropy_threshold(overwritten, most_clipped=1.0),
        entropy_threshold(nonzero),
    )
    kept = [nonzero[: int(threshold)].sum() / nonzero.sum() for threshold in thresholds]
    clipped = " | ".join(f"{100 * max(0.0, 1 - part):.3f}" for part in kept)
    return f"| {network} | {name} | {clipped} |"


def main() -> None:
    """Calibrate both networks and print the table as Markdown."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run(
            [sys.executable, ROOT / "models/lenet5.py", folder], check=True, capture_output=True
        )
        text = (ROOT / "models/lenet5.toml").read_text().replace("../demo/", "")
        (folder / "lenet5.toml").write_text(text)
        for recipe_file in (ROOT / "benchmarks/fcn_camvid.toml", folder / "lenet5.toml"):
            recipe = commands.read_recipe(recipe_file)
            done = commands.convert(recipe.model, outputs=recipe.outputs, verify=False)
            samples = open_samples(recipe.calibrate.data, done.model.inputs, recipe.preprocess)
            ranges = calibrate(done.model, samples)
            rows += [row(recipe_file.stem, n, h) for n, h in ranges.histograms.items()]
    print("# Values other than zero that entropy calibration clips, in percent\n")
    print(made_by() + "\n")
    print(
        "| network | tensor | as published | first bin overwritten | here |\n|---|---|---|---|---|"
    )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
