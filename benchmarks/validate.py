"""Validation of the FCN: TensorFlow, Caffe and INT8 engines against each other, and what it costs.

    python -m benchmarks.validate > benchmarks/validate.md

needs the network and images that fcn_camvid.toml names. The cost is the wall time of a validation,
decoding and metrics included, over that of the two engines alone on samples that are decoded
already; the two take turns, and the median ratio counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.heading import made_by

from onnxgraft import commands
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.model import Model
from onnxgraft.run.answers import adapted
from onnxgraft.stages import engine, quantize, surgery
from onnxgraft.stages.validate import make_metric, measure
from onnxgraft.stages.validate.report import Report

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
ROUNDS = 5
# A round's images: enough for medians, few enough that both sides meet the same neighbours.
PART = 20


def table(title: str, report: Report) -> None:
    """Print what one validation found."""
    print(f"\n## {title}\n")
    print("| | class mIoU | category mIoU | same class | max of range | cosine | SQNR | PSNR | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in report.candidates:
        metrics = " | ".join(f"{value:.2f}" for value in row.metrics.values())
        if not row.outputs:
            print(f"| {row.name} | {metrics} | | | | | | the original |")
            continue
        found, mark = row.outputs[0], "pass" if row.passed else "FAIL"
        print(f"| {row.name} | {metrics} | {100 * (found.agreement or 0):.2f} % | "
              f"{found.relative:.1e} | {found.cosine:.5f} | {found.sqnr:.1f} dB | "
              f"{found.psnr:.1f} dB | {mark}: {row.verdict} |")  # fmt: skip
    for note in report.notes:
        print(f"\n- {note}")


def cost(recipe: commands.Recipe, int8: Path, samples: Samples) -> tuple[float, float, float]:
    """Return the median seconds of inference and of validation a round, and their median ratio."""
    ratios, alone, whole = [], [], []
    with recipe.original.run() as first, engine.load(int8) as second:
        for number in range(ROUNDS + 1):
            begin = number * PART % (len(samples) - PART)
            part = Samples(
                samples.source, samples.inputs, samples.preprocess,
                samples.indices[begin : begin + PART], samples.files,
            )  # fmt: skip
            decoded = [sample.feeds for sample in part]
            start = time.perf_counter()
            for feeds in decoded:
                first.infer(adapted(feeds, first))
                second.infer(adapted(feeds, second))
            middle = time.perf_counter()
            measure(first, [second], part, partial(make_metric, "miou"), "score:0")
            end = time.perf_counter()
            if number:  # the first is for warming up
                alone.append(middle - start)
                whole.append(end - middle)
                ratios.append((end - middle) / (middle - start))
    return statistics.median(alone), statistics.median(whole), statistics.median(ratios)


def main() -> None:
    """Measure everything in one run and print it as Markdown."""
    recipe = commands.read_recipe(RECIPE)
    caffe = Path(recipe.model).with_suffix(".prototxt")
    weights = caffe.with_suffix(".caffemodel")
    print("# Validation of the FCN on CamVid\n")
    print(made_by())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lowered, _ = recipe.original.lower()
        cleaned, _ = surgery.run(lowered)
        cleaned.save(folder / "model.onnx")
        calibration = open_samples(recipe.calibrate.data, cleaned.inputs, recipe.preprocess)
        ranges = quantize.calibrate(cleaned, calibration)
        int8, _ = quantize.quantize(Model.load(folder / "model.onnx"), ranges, "openvino")
        int8.save(folder / "model.int8.openvino.onnx")
        engine.build(int8, folder / "engine.openvino", "openvino")
        against = partial(
            commands.validate, data=recipe.validation.data, preprocess=recipe.preprocess,
            metric="miou", metric_output=None, bisect=True,
        )  # fmt: skip
        table(
            "Caffe (OpenCV) against TensorFlow",
            against(recipe.model, caffe, candidate_weights=weights, outputs="score:0"),
        )
        table(
            "The INT8 engine against TensorFlow",
            against(recipe.model, folder / "engine.openvino", outputs=recipe.outputs),
        )
        engine.build(_score_only(folder), folder / "engine.score", "openvino")
        table(
            "The INT8 engine against Caffe (OpenCV)",
            against(caffe, folder / "engine.score", weights=weights,
                    graph=folder / "model.int8.openvino.onnx"),
        )  # fmt: skip
        with recipe.original.run() as original:
            samples = open_samples(recipe.validation.data, original.inputs, recipe.preprocess)
        inference, validation, ratio = cost(recipe, folder / "engine.openvino", samples)
    print("\n## Cost\n")
    print("| | seconds |\n|---|---|")
    print(f"| the two inferences alone, {PART} decoded images | {inference:.2f} |")
    print(f"| validation of {PART} images with miou | {validation:.2f} |")
    print(f"\nMedian ratio of {ROUNDS} rounds: {ratio:.2f}.")


def _score_only(folder: Path) -> Model:
    """Return the INT8 graph without its second output, which the Caffe network does not have."""
    model = Model.load(folder / "model.int8.openvino.onnx")
    model.graph.outputs = [out for out in model.graph.outputs if out.name == "score:0"]
    model.graph.cleanup()
    return model


if __name__ == "__main__":
    main()
